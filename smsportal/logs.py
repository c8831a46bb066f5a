"""What is kept out of the log lines."""

import logging
import re

RECEIPT_SECRET = re.compile(r"(/api/providers/[^/\s]+/receipts/)\S+")


class HideReceiptSecrets(logging.Filter):
    """Providers' callbacks prove themselves by a secret in their address, and Django logs the address of an error."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = RECEIPT_SECRET.sub(r"\1...", record.getMessage()), ()
        return True
