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
    attempt = _find(provider, receipt)
    applied = False
    if attempt is not None:
        entry = Outbox.objects.select_for_update().get(pk=attempt.outbox_id)
        attempt.refresh_from_db()
        # A receipt for an earlier attempt says nothing about the one that was made since.
        if attempt.number == entry.attempt_count and attempt.hold_reference == entry.hold_reference:
            applied = _advance(entry, attempt, receipt)
    return Receipt.objects.create(
        provider=provider,
        outbox_id=attempt.outbox_id if attempt else None,
        provider_message_id=receipt.provider_message_id,
        status=receipt.status,
        raw=receipt.raw,
        applied=applied,
    )


def _find(provider: str, receipt: DeliveryReceipt) -> Attempt | None:
    """The attempt a receipt is about: by our id first, by the provider's second; None for a stranger's."""
    attempts = Attempt.objects.filter(provider=provider).order_by("-number")
    own = attempts.filter(provider_message_id=receipt.provider_message_id) if receipt.provider_message_id else None
    try:
        reference = uuid.UUID(receipt.reference or "")
    except ValueError:
        return own.order_by("-pk").first() if own is not None else None
    ours = attempts.filter(outbox_id=reference)
    # One message may have been handed over more than once: the provider's id tells which time is meant.
    mine = own.filter(outbox_id=reference).first() if own is not None else None
    return mine or ours.first()


def _advance(entry: Outbox, attempt: Attempt, receipt: DeliveryReceipt) -> bool:
    """Change the message as far as the receipt goes beyond what is known; returns whether it did."""
    if receipt.status == "unrecognised":
        return False
    proves_acceptance = entry.status == Status.PENDING
    if proves_acceptance:
        outcomes.write([(entry, attempt, Accepted(receipt.provider_message_id))])
        entry.refresh_from_db()
    changes = _delivery_changes(entry, receipt)
    if changes:
        Outbox.objects.filter(pk=entry.pk).update(**changes)
    return proves_acceptance or bool(changes)


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
