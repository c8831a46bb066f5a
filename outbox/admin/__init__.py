"""The admin of messages, attempts, receipts, providers and dispatchers. They are read; what is done here, by POST and
with a reason, is to send failed messages again, to settle unknown outcomes, and to stop and start providers.
"""

from outbox.admin import logs, messages, providers, unknown

__all__ = ["logs", "messages", "providers", "unknown"]
