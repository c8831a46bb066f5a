"""Apply one delivery receipt (DLR): stored as it came, matched by our own id, and only ever forward.

A receipt also proves that the provider took the message. So it settles an attempt whose answer was lost, or has not
come yet; of the two, whichever is first counts, and the other only adds what was missing.
"""

import uuid
from typing import Any

from django.db import transaction
from django.db.models.functions import Now

from outbox import outcomes
from outbox.models import Attempt, Outbox, Receipt
from outbox.providers.base import Accepted, DeliveryReceipt

Status = Outbox.Status
DeliveryStatus = Outbox.DeliveryStatus


@transaction.atomic
def apply(provider: str, receipt: DeliveryReceipt) -> Receipt:
    """Store a receipt that came from `provider`, and move its message forward if it says something new."""
    outbox_id = _find(provider, receipt)
    applied = False
    if outbox_id is not None:
        entry = Outbox.objects.select_for_update().get(pk=outbox_id)
        applied = _advance(entry, provider, receipt)
    return Receipt.objects.create(
        provider=provider,
        outbox_id=outbox_id,
        provider_message_id=receipt.provider_message_id,
        status=receipt.status,
        raw=receipt.raw,
        applied=applied,
    )


def _find(provider: str, receipt: DeliveryReceipt) -> uuid.UUID | None:
    """The message a receipt is about: by our id first, by the provider's second; None for a stranger's."""
    attempts = Attempt.objects.filter(provider=provider)
    try:
        attempts = attempts.filter(outbox_id=uuid.UUID(receipt.reference or ""))
    except ValueError:
        if receipt.provider_message_id is None:
            return None
        attempts = attempts.filter(provider_message_id=receipt.provider_message_id)
    return attempts.order_by("-pk").values_list("outbox_id", flat=True).first()


def _advance(entry: Outbox, provider: str, receipt: DeliveryReceipt) -> bool:
    """Change the message as far as the receipt goes beyond what is known; returns whether it did."""
    if receipt.status == "unrecognised":
        return False
    latest = entry.attempts.filter(number=entry.attempt_count, hold_reference=entry.hold_reference).first()
    if latest is None:  # resent, and no provider has it yet
        return False
    certain = _is_about(entry, latest, provider, receipt)
    if certain is False:
        return False
    changed = False
    if entry.status == Status.PENDING and certain:
        outcomes.write([(entry, latest, Accepted(receipt.provider_message_id))])
        entry.refresh_from_db()
        changed = True
    # What may be about an earlier attempt is believed only when it is good news: the handset has the text.
    changes = _delivery_changes(entry, receipt) if certain or receipt.status == "delivered" else {}
    if changes and entry.status != Status.PENDING:
        Outbox.objects.filter(pk=entry.pk).update(**changes)
        changed = True
    return changed


def _is_about(entry: Outbox, latest: Attempt, provider: str, receipt: DeliveryReceipt) -> bool | None:
    """Whether a receipt is about the latest attempt; None when it may be about an earlier one as well.

    A message that was handed over more than once has one reference for all its attempts: only the provider's id tells
    them apart, where the receipt has it and the answer had it.
    """
    same_id = receipt.provider_message_id is not None
    if same_id and latest.provider_message_id == receipt.provider_message_id:
        return True
    earlier = entry.attempts.filter(provider=provider, number__lt=latest.number)
    if same_id and earlier.filter(provider_message_id=receipt.provider_message_id).exists():
        return False
    if latest.provider != provider:
        return False
    may_have_taken_it = [Attempt.Outcome.ACCEPTED, Attempt.Outcome.UNKNOWN]
    return None if earlier.filter(outcome__in=may_have_taken_it).exists() else True


def _delivery_changes(entry: Outbox, receipt: DeliveryReceipt) -> dict[str, Any]:
    match receipt.status:
        # Delivered is final, whatever was thought before: the handset has it.
        case "delivered" if entry.delivery_status != DeliveryStatus.DELIVERED:
            return {
                "status": Status.SENT,
                "delivery_status": DeliveryStatus.DELIVERED,
                "delivered_at": Now(),
                "sent_at": entry.sent_at or Now(),
                "error_code": None,
                "error_details": None,
            }
        case "undelivered" if entry.status == Status.SENT and entry.delivery_status is None:
            return {
                "status": Status.FAILED,
                "delivery_status": DeliveryStatus.UNDELIVERED,
                "error_code": "undelivered",
                "error_details": receipt.details or "The network could not deliver it to the handset.",
            }
    return {}
