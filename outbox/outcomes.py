"""What becomes of a message after it left the queue: every way an attempt or a wait can end, and its money with it.

Whoever changes a message here holds the lock on its row first; that makes the order of locks the same for all
(messages by id, then accounts by id) and lets exactly one of a worker, a receipt and a sweep win.
"""

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import DataError, IntegrityError, connection, transaction
from django.db.models import QuerySet
from django.db.models.functions import Coalesce, Now

from billing import ledger
from billing.models import Account
from outbox import (  # receipts settle outcomes, and an outcome makes known whose receipts some were
    notices,
    receipts,
    routing,
)
from outbox.exceptions import NotUnknown
from outbox.models import PROVIDER_PAUSED, Attempt, Outbox
from outbox.providers import get_provider, provider_names
from outbox.providers.base import Accepted, OutcomeUnknown, ProviderError, Rejected, Unavailable
from smsportal.exceptions import DomainError

logger = logging.getLogger(__name__)

Status = Outbox.Status
ChargeStatus = Outbox.ChargeStatus

Result = Accepted | ProviderError
Ending = tuple[Outbox, Attempt, Result]

UNKNOWN_DETAILS = (
    "Since {since} nobody knows whether this message was sent: the provider may have taken it and did not say so."
    " It is not sent again by itself, and must not be sent in another way either. A delivery receipt, the provider or"
    " the operator will settle it; if nothing does by {until}, it fails and its money is given back. Cause: {cause}"
)
MAX_BACKOFF_S = 300
FIRST_LOOK_UP_S = 30.0  # after an outcome has become unknown, unless its provider says otherwise
SWEEP_BATCH = 500
CONTRADICTIONS = (DomainError, IntegrityError, DataError)  # of rows that somebody has repaired by hand


class NotSent(ProviderError):
    """Found out later, of an unknown outcome: the provider does not have the message."""

    code = "not_sent"


class NotBegun(Unavailable):
    """We never called: that is no news of the provider."""

    code = "worker_stalled"


@transaction.atomic
def settle(results: Iterable[tuple[int, Result]]) -> set[int]:
    """Write the outcomes of attempts, by their ids, and move the money; returns those that were still open.

    An attempt that a receipt or the end of its lease has settled meanwhile keeps what it has, its message and its money
    too: a worker that wakes late writes nothing but the provider's id, if nobody knew it. That may make known whose
    receipts some were, and those count.
    """
    result_of = dict(results)
    attempts = Attempt.objects.filter(pk__in=result_of)
    entries = _locked(Outbox.objects.filter(pk__in=attempts.order_by().values("outbox_id")))
    endings: list[Ending] = []
    named: list[tuple[Attempt, str | None]] = []  # with the provider's id, as far as it is new
    for attempt in attempts:  # read after the lock, so that no outcome written before it is missed
        result = result_of[attempt.pk]
        if attempt.outcome is None:
            endings.append((entries[attempt.outbox_id], attempt, result))
            named.append((attempt, result.provider_message_id))
        elif result.provider_message_id is not None and attempt.provider_message_id is None:
            Attempt.objects.filter(pk=attempt.pk).update(provider_message_id=result.provider_message_id)
            named.append((attempt, result.provider_message_id))
    write(endings)
    receipts.match_orphans(named)
    return {attempt.pk for _, attempt, _ in endings}


def write(endings: list[Ending]) -> None:
    """Give attempts their outcome, messages their new state and holds their end. The messages' rows must be locked."""
    if not endings:
        return
    _write_attempts(endings)
    accepted = [ending for ending in endings if isinstance(ending[2], Accepted)]
    unsent = [ending for ending in endings if isinstance(ending[2], Rejected | NotSent)]
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
        released=[attempt.hold_reference for _, attempt, _ in unsent],
    )
    notices.sent(entry for entry, _, _ in accepted)
    notices.failed(entry for entry, _, _ in unsent)


@transaction.atomic
def settle_unknown(outbox_id: UUID, attempt_number: int, *, sent: bool, details: str) -> Outbox:
    """End the doubt about a message by what the provider or the staff have found out: was it sent or not?

    attempt_number: the attempt that was asked about. details: a sentence for the user, when it was not sent.
    What was sent is charged as if the provider had said so at once; what was not fails, its money is given back, and
    the user may send it again. Nothing here hands it to a provider.
    Raises NotUnknown, and changes nothing, when it has been settled otherwise or is with another attempt by now.
    """
    entry = Outbox.objects.select_for_update().get(pk=outbox_id)
    if entry.outcome != Outbox.Outcome.UNKNOWN or entry.attempt_count != attempt_number:
        raise NotUnknown(entry)
    attempt = entry.attempts.get(number=attempt_number)
    write([(entry, attempt, Accepted() if sent else NotSent(details))])
    entry.refresh_from_db()
    return entry


def _changes(entry: Outbox, attempt: Attempt, error: ProviderError) -> dict[str, Any]:
    """What a message becomes when its provider did not accept it."""
    changes: dict[str, Any] = {"error_code": error.error_code, "error_details": error.details}
    match error:
        case Rejected():
            changes |= {"status": Status.FAILED, "charge_status": ChargeStatus.RELEASED}
        case NotSent():
            changes |= {"status": Status.FAILED, "charge_status": ChargeStatus.RELEASED, "outcome": None}
        case Unavailable():
            changes |= {"due_at": Now() + _pause(attempt, error)}
            changes |= {"provider": routing.choose(entry, attempt.number + 1)}
            if error.refuses_us:
                changes |= {"error_details": PROVIDER_PAUSED.details}
        case _:
            changes |= {"outcome": Outbox.Outcome.UNKNOWN, "error_code": OutcomeUnknown.code}
            changes |= {"error_details": _unknown_details(entry, error)}
    return changes


def _unknown_details(entry: Outbox, error: ProviderError) -> str:
    return UNKNOWN_DETAILS.format(
        since=_moment(entry.last_attempt_at), until=_moment(entry.unknown_until()), cause=error.details
    )


def _moment(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if moment else "some time"


def _pause(attempt: Attempt, error: Unavailable) -> timedelta:
    """How long to wait for a provider: as it says, else twice as long each time; with jitter, so that not all return at
    once.
    """
    wait = error.retry_after if error.retry_after is not None else min(2.0 ** min(attempt.number, 10), MAX_BACKOFF_S)
    return timedelta(seconds=wait * random.uniform(1, 1.25))  # noqa: S311  # no secret


def _write_attempts(endings: list[Ending]) -> None:
    """One statement for all: an update of each row would cost more than the calls themselves."""
    ids, outcomes, provider_ids, codes, details, pauses = [], [], [], [], [], []
    for _, attempt, result in endings:
        error = result if isinstance(result, ProviderError) else None
        ids.append(attempt.pk)
        outcomes.append(outcome_of(result).value)
        provider_ids.append(result.provider_message_id)
        codes.append(error and error.error_code)
        details.append(error and error.details)
        doubtful = outcomes[-1] == Attempt.Outcome.UNKNOWN and not isinstance(result, NotSent)
        pauses.append(_first_look_up_s(attempt) if doubtful else None)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE outbox_attempt AS attempt
            SET outcome = ending.outcome, finished_at = COALESCE(finished_at, now()),
                provider_message_id = COALESCE(ending.provider_message_id, attempt.provider_message_id),
                error_code = ending.error_code, error_details = ending.error_details,
                look_up_at = now() + make_interval(secs => ending.look_up_after)
            FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[], %s::float8[])
                AS ending (id, outcome, provider_message_id, error_code, error_details, look_up_after)
            WHERE attempt.id = ending.id
            """,
            [ids, outcomes, provider_ids, codes, details, pauses],
        )


def _first_look_up_s(attempt: Attempt) -> float:
    """Also for a provider that cannot be asked, or is not in the settings: it may be, one day."""
    configured = attempt.provider in provider_names()
    return (configured and get_provider(attempt.provider).look_up_after_s) or FIRST_LOOK_UP_S


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


def end_leases() -> int:
    """Call the outcome unknown of every attempt whose worker did not come back in time; returns how many."""
    dead = Attempt.objects.filter(outcome=None, lease_expires_at__lt=Now()).order_by("lease_expires_at")
    return _all_or_each(_end_leases, list(dead.values_list("pk", flat=True)[:SWEEP_BATCH]))


@transaction.atomic
def _end_leases(ids: list[int]) -> int:
    error = OutcomeUnknown("The worker that was handing it over did not come back.")
    ended = settle((pk, error) for pk in ids)
    providers = Attempt.objects.filter(pk__in=ended).order_by().values_list("provider", flat=True)
    count(Counter((provider, Attempt.Outcome.UNKNOWN) for provider in providers))
    return len(ended)


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
    ids = list(doomed.values_list("pk", flat=True)[:SWEEP_BATCH])
    return _all_or_each(partial(_give_up_these, doomed, reason), ids)


def _all_or_each(end: Callable[[list[Any]], int], ids: list[Any]) -> int:
    """End all of these in one go, or each on its own when one contradicts the books: the audit will name it."""
    try:
        return end(ids)
    except CONTRADICTIONS:
        return sum(_this_one(end, pk) for pk in ids)


def _this_one(end: Callable[[list[Any]], int], pk: Any) -> int:
    try:
        return end([pk])
    except CONTRADICTIONS:
        logger.exception("%s cannot be ended: see audit", pk)
        return 0


@transaction.atomic
def _give_up_these(doomed: QuerySet[Outbox], reason: dict[str, str], ids: list[UUID]) -> int:
    # Asked again under the lock: what was doomed a moment ago may have been settled by another worker or a receipt.
    entries = _locked(doomed.filter(pk__in=ids), skip_locked=True)
    # While somebody keeps a user's account locked, only that user's wait.
    free = Account.objects.filter(user__in={entry.user_id for entry in entries.values()}).order_by("pk")
    users = {account.user_id for account in free.select_for_update(skip_locked=True, no_key=True)}
    entries = {pk: entry for pk, entry in entries.items() if entry.user_id in users}
    Outbox.objects.filter(pk__in=entries).update(
        status=Status.FAILED, outcome=None, due_at=None, charge_status=ChargeStatus.RELEASED, **reason
    )
    Attempt.objects.filter(outbox__in=entries, look_up_at__isnull=False).update(look_up_at=None)
    ledger.settle(released=[entry.hold_reference for entry in entries.values()])
    notices.failed(entries.values())
    return len(entries)


def _locked(queryset: QuerySet[Outbox], *, skip_locked: bool = False) -> dict[Any, Outbox]:
    """The messages by id, their rows locked in the order of their ids: two who lock many cannot deadlock."""
    return {entry.pk: entry for entry in queryset.order_by("pk").select_for_update(skip_locked=skip_locked)}
