"""What becomes of a message after it left the queue: every way an attempt or a wait can end, and its money with it.

Whoever changes a message here holds the lock on its row first; that makes the order of locks the same for all
(messages by id, then accounts by id) and lets exactly one of a worker, a receipt and a sweep win.
"""

import logging
import random
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import QuerySet
from django.db.models.functions import Coalesce, Now

from billing import ledger
from outbox import routing
from outbox.models import PROVIDER_PAUSED, Attempt, Outbox
from outbox.providers.base import Accepted, OutcomeUnknown, ProviderError, Rejected, Unavailable
from smsportal.exceptions import DomainError

logger = logging.getLogger(__name__)

Status = Outbox.Status
ChargeStatus = Outbox.ChargeStatus

Result = Accepted | ProviderError
Ending = tuple[Outbox, Attempt, Result]

UNKNOWN_DETAILS = (
    "The provider may have taken this message and did not say so. It is not sent again by itself, and must not be"
    " sent in another way either: a delivery receipt, the provider or the operator will settle it. Cause: {}"
)
MAX_BACKOFF_S = 300
SWEEP_BATCH = 500


@transaction.atomic
def settle(results: Iterable[tuple[int, Result]]) -> int:
    """Write the outcomes of attempts, by their ids, and move the money; returns how many were still open.

    An attempt that a receipt or the end of its lease has settled meanwhile keeps what it has: only the provider's id,
    if nobody knew it, is added.
    """
    result_of = dict(results)
    attempts = Attempt.objects.filter(pk__in=result_of)
    entries = _locked(Outbox.objects.filter(pk__in=attempts.order_by().values("outbox_id")))
    endings: list[Ending] = []
    for attempt in attempts:  # read after the lock, so that no outcome written before it is missed
        result = result_of[attempt.pk]
        if attempt.outcome is None:
            endings.append((entries[attempt.outbox_id], attempt, result))
        elif isinstance(result, Accepted) and attempt.provider_message_id is None:
            Attempt.objects.filter(pk=attempt.pk).update(provider_message_id=result.provider_message_id)
    write(endings)
    return len(endings)


def write(endings: list[Ending]) -> None:
    """Give attempts their outcome, messages their new state and holds their end. The messages' rows must be locked."""
    if not endings:
        return
    _write_attempts(endings)
    accepted = [ending for ending in endings if isinstance(ending[2], Accepted)]
    rejected = [ending for ending in endings if isinstance(ending[2], Rejected)]
    Outbox.objects.filter(pk__in=[entry.pk for entry, _, _ in accepted]).update(
        status=Status.SENT,
        outcome=None,
        due_at=None,
        charge_status=ChargeStatus.CHARGED,
        sent_at=Coalesce("sent_at", Now()),
        error_code=None,
        error_details=None,
    )
    for entry, attempt, result in endings:
        if isinstance(result, ProviderError):
            Outbox.objects.filter(pk=entry.pk).update(**_changes(entry, attempt, result))
    ledger.settle(
        captured=[attempt.hold_reference for _, attempt, _ in accepted],
        released=[attempt.hold_reference for _, attempt, _ in rejected],
    )


def _changes(entry: Outbox, attempt: Attempt, error: ProviderError) -> dict[str, Any]:
    """What a message becomes when its provider did not accept it."""
    changes: dict[str, Any] = {"error_code": error.error_code, "error_details": error.details}
    match error:
        case Rejected():
            changes |= {"status": Status.FAILED, "charge_status": ChargeStatus.RELEASED}
        case Unavailable():
            changes |= {"due_at": Now() + _pause(attempt, error)}
            changes |= {"provider": routing.choose(entry.recipient, attempt.number + 1)}
            if error.refuses_us:
                changes |= {"error_details": PROVIDER_PAUSED.details}
        case _:
            changes |= {"outcome": Outbox.Outcome.UNKNOWN, "error_code": OutcomeUnknown.code}
            changes |= {"error_details": UNKNOWN_DETAILS.format(error.details)}
    return changes


def _pause(attempt: Attempt, error: Unavailable) -> timedelta:
    """How long to wait for a provider: as it says, else twice as long each time; with jitter, so that not all return at
    once.
    """
    wait = error.retry_after if error.retry_after is not None else min(2.0 ** min(attempt.number, 10), MAX_BACKOFF_S)
    return timedelta(seconds=wait * random.uniform(1, 1.25))  # noqa: S311  # no secret


def _write_attempts(endings: list[Ending]) -> None:
    """One statement for all: an update of each row would cost more than the calls themselves."""
    ids, outcomes, provider_ids, codes, details = [], [], [], [], []
    for _, attempt, result in endings:
        error = result if isinstance(result, ProviderError) else None
        ids.append(attempt.pk)
        outcomes.append(outcome_of(result).value)
        provider_ids.append(result.provider_message_id)
        codes.append(error and error.error_code)
        details.append(error and error.details)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE outbox_attempt AS attempt
            SET outcome = ending.outcome, finished_at = COALESCE(finished_at, now()),
                provider_message_id = COALESCE(ending.provider_message_id, attempt.provider_message_id),
                error_code = ending.error_code, error_details = ending.error_details
            FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[])
                AS ending (id, outcome, provider_message_id, error_code, error_details)
            WHERE attempt.id = ending.id
            """,
            [ids, outcomes, provider_ids, codes, details],
        )


def outcome_of(result: Result) -> Attempt.Outcome:
    match result:
        case Accepted():
            return Attempt.Outcome.ACCEPTED
        case Rejected():
            return Attempt.Outcome.REJECTED
        case Unavailable():
            return Attempt.Outcome.UNAVAILABLE
    return Attempt.Outcome.UNKNOWN


def count(outcomes: Counter[tuple[str, Attempt.Outcome]]) -> None:
    """Add to how many attempts at each provider have ended in which way."""
    with connection.cursor() as cursor:
        for (provider, outcome), attempts in sorted(outcomes.items()):  # the same order for everybody: no deadlock
            cursor.execute(
                """
                INSERT INTO outbox_attemptcount AS kept (provider, outcome, attempts) VALUES (%s, %s, %s)
                ON CONFLICT (provider, outcome) DO UPDATE SET attempts = kept.attempts + excluded.attempts
                """,
                [provider, outcome.value, attempts],
            )


# --- what ends by the clock -------------------------------------------------------------------------------------------


@transaction.atomic
def end_leases() -> int:
    """Call the outcome unknown of every attempt whose worker did not come back in time; returns how many."""
    dead = list(Attempt.objects.filter(outcome=None, lease_expires_at__lt=Now())[:SWEEP_BATCH])
    error = OutcomeUnknown("The worker that was handing it over did not come back.")
    count(Counter((attempt.provider, Attempt.Outcome.UNKNOWN) for attempt in dead))
    return settle((attempt.pk, error) for attempt in dead)


def expire() -> int:
    """Fail what no provider could take before its time was over, and give its money back; returns how many."""
    return _give_up(
        Outbox.objects.overdue(),
        error_code="expired",
        error_details="No provider could take it before it expired.",
    )


def end_unknown() -> int:
    """Fail what nobody could settle for SMS_UNKNOWN_AFTER_HOURS, and give its money back; returns how many."""
    hours = settings.SMS_UNKNOWN_AFTER_HOURS
    return _give_up(
        Outbox.objects.filter(
            outcome=Outbox.Outcome.UNKNOWN, last_attempt_at__lt=Now() - timedelta(hours=hours)
        ).order_by("last_attempt_at"),
        error_code=OutcomeUnknown.code,
        error_details=f"Whether it was sent could not be found out within {hours} hours. The money was given back.",
    )


def _give_up(doomed: QuerySet[Outbox], **reason: str) -> int:
    """Fail the doomed; one whose money the books know otherwise is left alone, for the audit to name."""
    ids = list(doomed.values_list("pk", flat=True)[:SWEEP_BATCH])
    try:
        return _give_up_these(doomed, ids, reason)
    except DomainError:
        return sum(_give_up_one(doomed, pk, reason) for pk in ids)


def _give_up_one(doomed: QuerySet[Outbox], pk: UUID, reason: dict[str, str]) -> int:
    try:
        return _give_up_these(doomed, [pk], reason)
    except DomainError:
        logger.exception("outbox %s cannot be given up: see audit", pk)
        return 0


@transaction.atomic
def _give_up_these(doomed: QuerySet[Outbox], ids: list[UUID], reason: dict[str, str]) -> int:
    # Asked again under the lock: what was doomed a moment ago may have been settled by another worker or a receipt.
    entries = _locked(doomed.filter(pk__in=ids), skip_locked=True)
    Outbox.objects.filter(pk__in=entries).update(
        status=Status.FAILED, outcome=None, due_at=None, charge_status=ChargeStatus.RELEASED, **reason
    )
    ledger.settle(released=[entry.hold_reference for entry in entries.values()])
    return len(entries)


def _locked(queryset: QuerySet[Outbox], *, skip_locked: bool = False) -> dict[Any, Outbox]:
    """The messages by id, their rows locked in the order of their ids: two who lock many cannot deadlock."""
    return {entry.pk: entry for entry in queryset.order_by("pk").select_for_update(skip_locked=skip_locked)}
