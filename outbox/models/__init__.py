"""What the outbox keeps: messages and all that happens to them; and who may send as whom, and to whom."""

from outbox.models.messages import (
    HIDDEN,
    PROVIDER_PAUSED,
    Attempt,
    AttemptCount,
    AuditRun,
    IdempotencyKey,
    Outbox,
    OutboxQuerySet,
    ProviderState,
    Reason,
    Receipt,
    UnknownOutcome,
    Worker,
)
from outbox.models.permissions import OptOut, ProtectedName, SenderId

__all__ = [
    "HIDDEN",
    "PROVIDER_PAUSED",
    "Attempt",
    "AttemptCount",
    "AuditRun",
    "IdempotencyKey",
    "OptOut",
    "Outbox",
    "OutboxQuerySet",
    "ProtectedName",
    "ProviderState",
    "Reason",
    "Receipt",
    "SenderId",
    "UnknownOutcome",
    "Worker",
]
