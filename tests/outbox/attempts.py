"""Messages in a provider's hands, or of unknown outcome, without a dispatcher."""

from datetime import timedelta
from typing import Any

from django.db.models import F
from django.db.models.functions import Now

from billing.models import Account
from outbox import outcomes, sending
from outbox.models import Attempt, Outbox
from outbox.providers.base import OutcomeUnknown


def hand_over(entry: Outbox, provider: str = "locmem") -> Attempt:
    """As a dispatcher's claim leaves it: the attempt is written, and the provider has not answered."""
    Outbox.objects.filter(pk=entry.pk).update(due_at=None, last_attempt_at=Now(), attempt_count=F("attempt_count") + 1)
    entry.refresh_from_db()
    return Attempt.objects.create(
        outbox=entry,
        number=entry.attempt_count,
        hold_reference=entry.hold_reference,
        provider=provider,
        lease_expires_at=Now() + timedelta(seconds=60),
    )


def lose_answer(
    entry: Outbox, provider: str = "locmem", provider_message_id: str | None = None, details: str = "No answer."
) -> Attempt:
    """Handed over, and of unknown outcome."""
    attempt = hand_over(entry, provider)
    outcomes.settle([(attempt.pk, OutcomeUnknown(details, provider_message_id=provider_message_id))])
    entry.refresh_from_db()
    attempt.refresh_from_db()
    return attempt


def unknown_message(account: Account, recipient: str = "+254711000001", **options: Any) -> Outbox:
    entry = sending.send(account.user, recipient=recipient, text="Hello Amina", **options)
    lose_answer(entry)
    return entry
