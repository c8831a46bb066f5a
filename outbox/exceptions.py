"""Why a message was not accepted, sent again or cancelled."""

from decimal import Decimal
from uuid import UUID

from outbox.models import Outbox
from smsportal.exceptions import DomainError


class TooManySegments(DomainError):
    code = "too_many_segments"


class MaxTotalCostExceeded(DomainError):
    code = "max_total_cost_exceeded"

    def __init__(self, total_cost: Decimal, limit: Decimal, currency: str) -> None:
        super().__init__(
            f"The message costs {total_cost.normalize():f} {currency}, more than the {limit.normalize():f} allowed.",
            totalCost=total_cost,
            currency=currency,
        )


class SenderIdNotAllowed(DomainError):
    code = "sender_id_not_allowed"

    def __init__(self, sender_id: str, *, is_requested: bool = False) -> None:
        what_to_do = (
            "It waits for the operator's approval; leave it out until then."
            if is_requested
            else "Leave it out, or ask for it on the page /settings/sender-ids/; a default is chosen there, too."
        )
        super().__init__(f"The sender ID {sender_id} is not approved for this user. {what_to_do}")


class SenderIdKnown(DomainError):
    """The user has asked for it before, or for too many."""

    code = "sender_id_known"


class SenderIdProtected(DomainError):
    code = "sender_id_protected"


class SenderIdTaken(DomainError):
    code = "sender_id_taken"

    def __init__(self) -> None:
        super().__init__("Another user has this sender ID, or one that looks like it.")


class SenderIdDecided(DomainError):
    code = "sender_id_decided"


class RecipientNotAllowed(DomainError):
    code = "recipient_not_allowed"


class DuplicateMessage(DomainError):
    """The same text went to the same number a moment ago. duplicate_of: that message, if it is in the outbox."""

    code = "duplicate_message"

    def __init__(self, duplicate_of: UUID | None, retry_after_s: int) -> None:
        super().__init__(
            f"The same text went to this number a moment ago. To send it again, wait {retry_after_s} s.",
            duplicateOf=duplicate_of and str(duplicate_of),
            retryAfter=retry_after_s,
        )
        self.retry_after_s = retry_after_s


class AboutEntry(DomainError):
    """A refusal about a message that is in the outbox; the API shows the entry beside the reason."""

    def __init__(self, message: str, entry: Outbox, **members: object) -> None:
        super().__init__(message, **members)
        self.entry = entry


class NotPaid(AboutEntry):
    """The balance does not cover the message. It is in the outbox as failed, and can be sent again."""

    code = "insufficient_balance"


class NotFailed(AboutEntry):
    code = "not_failed"

    def __init__(self, entry: Outbox) -> None:
        state = "of unknown outcome" if entry.outcome else entry.status
        super().__init__(f"Only a failed message can be sent again; this one is {state}.", entry, outcome=entry.outcome)


class NotCancellable(AboutEntry):
    code = "not_cancellable"

    def __init__(self, entry: Outbox) -> None:
        super().__init__("Only a message that still waits for a provider can be cancelled.", entry)


class NotUnknown(AboutEntry):
    """Somebody, or a receipt, was quicker to settle it."""

    code = "not_unknown"

    def __init__(self, entry: Outbox) -> None:
        state = "unknown again, of another attempt" if entry.outcome else f"known: {entry.status}"
        super().__init__(f"What became of this message is {state}.", entry, outcome=entry.outcome)


class RetryLimitReached(DomainError):
    code = "retry_limit_reached"

    def __init__(self, entry: Outbox) -> None:
        super().__init__(
            f"The message was sent again {entry.retry_count} times, as often as is allowed. Send a new one.",
            retryCount=entry.retry_count,
            maxRetries=entry.max_retries,
        )


class InFlight(DomainError):
    code = "in_flight"

    def __init__(
        self, message: str = "The first request with this key is not done yet; ask again in a moment."
    ) -> None:
        super().__init__(message)


class IdempotencyKeyReused(DomainError):
    code = "idempotency_key_reused"
