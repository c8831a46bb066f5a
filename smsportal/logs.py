"""What is kept out of the log lines."""

import logging
import re
import traceback
from types import TracebackType

ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
RECEIPT_SECRET = re.compile(r"(/api/providers/[^/\s]+/receipts/)\S+")


class HideReceiptSecrets(logging.Filter):
    """Providers' callbacks prove themselves by a secret in their address, and Django logs the address of an error."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = RECEIPT_SECRET.sub(r"\1...", record.getMessage()), ()
        return True


class PlacesOnly(logging.Formatter):
    """Tells of an exception what it is and where it came from, and nothing that it says.

    PostgreSQL puts whole rows into its errors, and others put what they could not digest: numbers, texts, passwords.
    """

    def formatException(self, ei: ExceptionInfo) -> str:  # noqa: N802  # its name in logging
        return "\n".join(_places(ei[1]))


def _places(error: BaseException | None) -> list[str]:
    """An exception's causes first, as Python has it."""
    if error is None:
        return []
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    frames = traceback.extract_tb(error.__traceback__)
    here = [f"{type(error).__module__}.{type(error).__qualname__}:"]
    return [*_places(cause), *here, *(f"  {frame.filename}:{frame.lineno} {frame.name}" for frame in frames)]
