"""The admin of messages, attempts, receipts, providers and dispatchers, and of who may send as whom.

Most are read; what is done here, by POST and with a reason, is to send failed messages again, to settle unknown
outcomes, to stop and start providers, and to decide on sender IDs.
"""

from outbox.admin import logs, messages, permissions, providers, unknown

__all__ = ["logs", "messages", "permissions", "providers", "unknown"]
