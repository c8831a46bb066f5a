"""Apply one delivery receipt (DLR): stored as it came, matched by our own id, and only ever forward.

A receipt also proves that the provider took the message. So it settles an attempt whose answer was lost, or has not
come yet; of the two, whichever is first counts, and the other only adds what was missing.

One that comes before anybody knows the provider's id in it is an orphan. It is applied when that id becomes known: by
the answer, however late, or by another receipt. Whatever the order, the end is the same.
"""

import uuid
from collections.abc import Iterable, Sequence
from functools import reduce
from operator import or_
from typing import Any

from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet, Subquery, prefetch_related_objects
from django.db.models.functions import Now

from outbox import notices, outcomes
from outbox.models import Attempt, Outbox, Receipt
from outbox.providers.base import Accepted, DeliveryReceipt
from smsportal.conflicts import repeated_on_conflict

Status = Outbox.Status
DeliveryStatus = Outbox.DeliveryStatus
Effect = Receipt.Effect


@repeated_on_conflict
def apply(provider: str, receipt: DeliveryReceipt) -> Receipt:
    """Store a receipt that came from `provider`, and move its message forward if it says something new."""
    while True:
        if kept := _apply(provider, receipt) or _keep_orphan(provider, receipt):
            return kept


@transaction.atomic
def _apply(provider: str, receipt: DeliveryReceipt) -> Receipt | None:
    """Apply and store it; None when no message is known that it could be about."""
    entry = _locked_entry(provider, receipt)
    if entry is None:
        return None
    kept = _stored(provider, receipt, _advance(entry, provider, receipt), entry.pk)
    kept.save()
    return kept


@transaction.atomic
def apply_together(batch: Sequence[tuple[str, DeliveryReceipt]]) -> list[bool]:
    """Apply and store, in a few statements for all, those that tell how the delivery of a sent message went.

    batch: each with its provider's name. Returns which of them are done; the others want apply(), since they settle an
    outcome, fit no reference, or are about a message that somebody has locked or that is in the batch already.
    """
    asked = {outbox_id for _, receipt in batch if (outbox_id := _uuid(receipt.reference)) is not None}
    # No message is waited for, no account touched, and users' notices are locked in the order that all keep to: a batch
    # cannot be part of a deadlock.
    found = Outbox.objects.filter(pk__in=asked).exclude(status=Status.PENDING).order_by("pk")
    entries = {entry.pk: entry for entry in found.select_for_update(skip_locked=True)}
    prefetch_related_objects(list(entries.values()), "attempts")
    known, done = [], []
    for provider, receipt in batch:
        outbox_id = _uuid(receipt.reference)
        entry = entries.pop(outbox_id, None) if outbox_id else None
        fits = entry is not None and any(attempt.provider == provider for attempt in entry.attempts.all())
        if entry is not None and fits:
            known.append((entry, provider, receipt))
        done.append(fits)
    known.sort(key=lambda one: one[0].user_id)
    Receipt.objects.bulk_create(
        _stored(provider, receipt, _advance(entry, provider, receipt), entry.pk) for entry, provider, receipt in known
    )
    return done


@transaction.atomic
def _keep_orphan(provider: str, receipt: DeliveryReceipt) -> Receipt | None:
    """Store one that fits no message; None when its message has become known in the meantime."""
    if receipt.provider_message_id is not None:
        _exclude_each_other([(provider, receipt.provider_message_id)])
        if Attempt.objects.filter(provider=provider, provider_message_id=receipt.provider_message_id).exists():
            return None
    kept = _stored(provider, receipt, Effect.ORPHAN, None)
    kept.save()
    return kept


def match_orphans(named: Iterable[tuple[Attempt, str | None]]) -> None:
    """Apply the receipts that came before these attempts' ids, as the provider gives them, were known.

    In the transaction that makes the ids known, and has locked the attempts' messages.
    """
    attempts = {
        (attempt.provider, provider_id): attempt
        for attempt, provider_id in sorted(named, key=lambda pair: pair[0].pk)
        if provider_id is not None
    }
    if not attempts:
        return
    _exclude_each_other(attempts)
    names = (Q(provider=provider, provider_message_id=provider_id) for provider, provider_id in attempts)
    for orphan in Receipt.objects.filter(reduce(or_, names), effect=Effect.ORPHAN).order_by("pk"):
        attempt = attempts[orphan.provider, str(orphan.provider_message_id)]
        entry = Outbox.objects.get(pk=attempt.outbox_id)
        orphan.outbox, orphan.effect = entry, _advance(entry, orphan.provider, _as_it_came(orphan), orphan=True)
        orphan.save(update_fields=["outbox", "effect"])


def _exclude_each_other(names: Iterable[tuple[str, str]]) -> None:
    """Let nobody else keep an orphan, or make an id known, under one of these names until our transaction ends.

    Otherwise each of the two could look for the other's work a moment before it is there.
    """
    with connection.cursor() as cursor:
        # In the same order for everybody: no deadlock.
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(name, 0)) FROM unnest(%s::text[]) AS name",
            [sorted(f"receipt {provider} {provider_id}" for provider, provider_id in names)],
        )


def _stored(provider: str, receipt: DeliveryReceipt, effect: Effect, outbox_id: uuid.UUID | None) -> Receipt:
    return Receipt(
        provider=provider,
        outbox_id=outbox_id,
        provider_message_id=receipt.provider_message_id,
        status=receipt.status,
        details=receipt.details,
        raw=receipt.raw,
        effect=effect,
    )


def _as_it_came(stored: Receipt) -> DeliveryReceipt:
    return DeliveryReceipt(
        status=stored.status,  # type: ignore[arg-type]  # the same words
        provider_message_id=stored.provider_message_id,
        details=stored.details,
        raw=stored.raw,
    )


def _locked_entry(provider: str, receipt: DeliveryReceipt) -> Outbox | None:
    """The message a receipt is about, its row locked: by our id first, by the provider's second."""
    handed_over = Attempt.objects.filter(provider=provider)
    for found in _candidates(handed_over, receipt):
        if (entry := found.select_for_update(of=("self",)).first()) is not None:
            return entry
    return None


def _candidates(handed_over: QuerySet[Attempt], receipt: DeliveryReceipt) -> Iterable[QuerySet[Outbox]]:
    if (outbox_id := _uuid(receipt.reference)) is not None:
        yield Outbox.objects.filter(Exists(handed_over.filter(outbox=OuterRef("pk"))), pk=outbox_id)
    if receipt.provider_message_id is not None:
        named = handed_over.filter(provider_message_id=receipt.provider_message_id).order_by("-pk")
        yield Outbox.objects.filter(pk=Subquery(named.values("outbox_id")[:1]))


def _uuid(text: str | None) -> uuid.UUID | None:
    try:
        return uuid.UUID(text or "")
    except ValueError:
        return None


# --- what it does to its message --------------------------------------------------------------------------------------


def _advance(entry: Outbox, provider: str, receipt: DeliveryReceipt, *, orphan: bool = False) -> Effect:
    """Change the message, whose row is locked, as far as the receipt goes beyond what is known.

    orphan: its id, and all receipts with that, are being matched already.
    """
    if receipt.status == "unrecognised":
        return Effect.UNRECOGNISED
    attempts = list(entry.attempts.all())  # read after the lock, so that no outcome written before it is missed
    latest = next((one for one in attempts if one.number == entry.attempt_count), None)
    if latest is None or latest.hold_reference != entry.hold_reference:
        return Effect.LATE  # resent, and no provider has it yet
    certain = _is_about(latest, [one for one in attempts if one.provider == provider], provider, receipt)
    if certain is False:
        return Effect.LATE
    settles = entry.status == Status.PENDING and certain is True
    if settles:
        outcomes.write([(entry, latest, Accepted(receipt.provider_message_id))])
        if not orphan:
            match_orphans([(latest, receipt.provider_message_id)])
        entry.refresh_from_db()
    # What may be about an earlier attempt is believed only when it is good news: the handset has the text.
    changes = _delivery_changes(entry, receipt) if certain or receipt.status == "delivered" else {}
    if changes and entry.status != Status.PENDING:
        Outbox.objects.filter(pk=entry.pk).update(**changes)
        if receipt.status == "delivered":
            notices.delivered(entry)
        else:
            notices.failed([entry])
        return Effect.APPLIED
    if settles:
        return Effect.APPLIED
    return _effect_of_no_news(entry, latest, receipt) if certain else Effect.LATE


def _is_about(latest: Attempt, attempts: list[Attempt], provider: str, receipt: DeliveryReceipt) -> bool | None:
    """Whether a receipt is about the latest attempt; None when it may be about an earlier one as well.

    attempts: those at the receipt's provider. A message that was handed over more than once has one reference for all
    its attempts: only the provider's id tells them apart, where the receipt has it and the answer had it.
    """
    same_id = receipt.provider_message_id is not None
    if same_id and latest.provider == provider and latest.provider_message_id == receipt.provider_message_id:
        return True
    earlier = [attempt for attempt in attempts if attempt.number < latest.number]
    if same_id and any(attempt.provider_message_id == receipt.provider_message_id for attempt in earlier):
        return False
    if latest.provider != provider:
        return False
    may_have_taken_it = [Attempt.Outcome.ACCEPTED, Attempt.Outcome.UNKNOWN]
    return None if any(attempt.outcome in may_have_taken_it for attempt in earlier) else True


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


def _effect_of_no_news(entry: Outbox, latest: Attempt, receipt: DeliveryReceipt) -> Effect:
    """What a receipt about the latest attempt is that changes nothing."""
    taken_for_unsent = entry.status == Status.FAILED and entry.delivery_status is None
    match receipt.status:
        case "undelivered" if entry.delivery_status == DeliveryStatus.DELIVERED:
            return Effect.CONTRADICTS
        # The provider had it, and bills it; we gave the money back. A refusal may well be reported twice.
        case "undelivered" if taken_for_unsent and latest.outcome != Attempt.Outcome.REJECTED:
            return Effect.CONTRADICTS
        case "in_transit" if taken_for_unsent:
            return Effect.CONTRADICTS
        case "in_transit" if entry.delivery_status is not None:
            return Effect.LATE
    return Effect.REPEATED
