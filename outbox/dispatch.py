"""Hand due messages to providers: claim, call, settle. The only caller of providers.

The outbox table is the queue, one for each provider, so that none of them keeps another's messages waiting. A claim
commits an attempt, with a lease, before a byte leaves; the call happens outside any transaction; its outcome is written
only while the attempt is still open. A worker that dies leaves an open attempt, and when the lease is over the outcome
is unknown: nobody sends that message again of his own accord.
"""

import contextlib
import logging
import random
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import timedelta

from django.db import DataError, IntegrityError, OperationalError, connection, transaction
from django.db import Error as DatabaseError  # every one of them, InterfaceError too
from django.db.models import F
from django.db.models.functions import Now

from outbox import circuits, daily_audit, idempotency, limits, look_ups, notices, outcomes, receipts, routing, workers
from outbox.models import Attempt, Outbox, ProviderState
from outbox.outcomes import NotBegun, Result
from outbox.providers import get_provider, provider_names
from outbox.providers.base import Accepted, DeliveryReceipt, Message, OutcomeUnknown, ProviderError
from smsportal import emails
from smsportal import notices as all_notices
from smsportal.chores import PURGE_BATCH, Chores
from smsportal.webhooks import deliveries

logger = logging.getLogger(__name__)

CONCURRENCY = 64  # calls at once to each provider, in one process
POLL_S = 0.1  # how often an idle worker looks for work
CHORES_S = 0.2  # how often it looks for webhooks, e-mails and look-ups
SWEEP_S = 1.0  # how often it looks for what the clock has ended
PURGE_S = 10.0
LEASE_MARGIN_S = 15  # what a call may take on top of its provider's own limit, before its worker is taken for dead
BROKEN_ROW_RETRY_S = 300
BROKEN_ROW = ("internal_error", "Something is wrong with this message's records. The operator has to look at it.")
FAIR_SHARE = 4  # one place in so many is for normal messages, however many urgent ones there are
LOCKED_RETRY_S = 5.0
RECEIPTS_S = 0.5  # for collected receipts, before everything else has its turn
PROVIDER_RETRY_S = 5.0  # after its queue or its code has made trouble
DATABASE_RETRY_S = 1.0


@dataclass(frozen=True)
class Claim:
    """One attempt that is ours until its lease ends."""

    attempt_id: int
    user_id: uuid.UUID  # who pays
    provider: str
    message: Message
    claimed_at: float = field(default_factory=time.monotonic)


@transaction.atomic
def claim(provider: str, limit: int) -> list[Claim]:
    """Take up to `limit` due messages for a provider; those that another worker is taking at this moment are passed
    over.
    """
    attempts = _begin_attempts(
        [_attempt(entry, provider) for entry in _next(provider, circuits.admit(provider, limit))]
    )
    circuits.took(provider, len(attempts), _lease_s(provider))
    return [
        Claim(attempt.pk, attempt.outbox.user_id, attempt.provider, _message(attempt.outbox, attempt.number))
        for attempt in attempts
    ]


def _next(provider: str, limit: int) -> list[Outbox]:
    """The messages whose turn it is, locked: urgent ones first, but some places are never theirs."""
    due = Outbox.objects.due().filter(provider=provider).select_for_update(skip_locked=True)
    # Of few places the fair share is less than one: then it is a matter of chance.
    kept = limit // FAIR_SHARE + (random.random() * FAIR_SHARE < limit % FAIR_SHARE)  # noqa: S311  # no secret
    urgent = list(due.filter(priority=Outbox.Priority.HIGH)[: limit - kept])
    return urgent + list(due.filter(priority=Outbox.Priority.NORMAL)[: limit - len(urgent)])


def _attempt(entry: Outbox, provider: str) -> Attempt:
    return Attempt(
        outbox=entry,
        number=entry.attempt_count + 1,
        hold_reference=entry.hold_reference,
        provider=provider,
        lease_expires_at=Now() + timedelta(seconds=_lease_s(provider)),
    )


def _lease_s(provider: str) -> float:
    return get_provider(provider).timeout_s + LEASE_MARGIN_S


def _begin_attempts(attempts: list[Attempt]) -> list[Attempt]:
    """Write the attempts. A row that contradicts another, after a repair by hand, is put off and stops nobody else."""
    try:
        with transaction.atomic():
            Outbox.objects.filter(pk__in=[attempt.outbox_id for attempt in attempts]).update(
                due_at=None, last_attempt_at=Now(), attempt_count=F("attempt_count") + 1
            )
            return Attempt.objects.bulk_create(attempts)
    except (IntegrityError, DataError):
        if len(attempts) > 1:
            return [begun for attempt in attempts for begun in _begin_attempts([attempt])]
    logger.error("outbox %s cannot be attempted: its rows contradict each other, see audit", attempts[0].outbox_id)
    routing.put_off([attempts[0].outbox_id], BROKEN_ROW_RETRY_S, *BROKEN_ROW)
    return []


def _message(entry: Outbox, attempt_number: int) -> Message:
    return Message(
        reference=str(entry.pk),
        recipient=entry.recipient,
        text=entry.text,
        sender_id=entry.sender_id or "",
        encoding=entry.encoding,
        segments=entry.segments,
        attempt=attempt_number,
    )


def call(claimed: Claim) -> Result:
    """Hand one message to its provider; never raises. No database: a slow provider must hold nothing of ours."""
    if time.monotonic() - claimed.claimed_at > LEASE_MARGIN_S:
        return NotBegun("The worker was too slow to begin.")
    try:
        result = get_provider(claimed.provider).send(claimed.message)
        if not isinstance(result, Accepted):
            raise TypeError(f"send() returned {type(result).__name__}, not Accepted")
    except ProviderError as error:
        return error
    except BaseException:
        # A mistake in a provider's code proves nothing about the message. Not even sys.exit() ends more than this call.
        logger.exception("provider %s broke on outbox %s", claimed.provider, claimed.message.reference)
        return OutcomeUnknown("The provider's answer could not be understood.")
    return result


class Dispatcher:
    """One worker process: many calls at once, one thread that talks to the database.

    Any number of them share the outbox; `stop()` lets the calls under way finish and ends run(). What one message, one
    user's locked account or one provider does never stops the others.
    """

    def __init__(self, concurrency: int = CONCURRENCY) -> None:
        self.concurrency = concurrency
        self.stopping = False
        self._calls: dict[Future[Result], Claim] = {}  # under way, or not yet settled
        self._locked_until: dict[uuid.UUID, float] = {}  # users whose account somebody else keeps locked
        self._avoided_until: dict[str, float] = {}  # providers whose queue or code has made trouble
        self._broken: set[str] = set()  # of them, those whose code has: their messages do not go out for now
        self._receipts: deque[tuple[str, DeliveryReceipt]] = deque()  # collected, not yet applied
        self._chores = Chores(look_ups.CHORE, deliveries.CHORE, emails.CHORE)
        self._audit = daily_audit.DailyAudit()
        self._heartbeat = workers.Heartbeat()
        self._tally = circuits.Tally()
        self._sweep_at = self._purge_at = self._chores_at = self._receipts_at = 0.0

    def stop(self) -> None:
        self.stopping = True

    def run(self, *, once: bool = False) -> None:
        """Work until stop(); with `once`, until nothing is due that may go out, and nothing under way."""
        draining = False
        places = self.concurrency * len(provider_names()) + self._chores.places
        with ThreadPoolExecutor(places, thread_name_prefix="call") as pool, self._audit:
            while True:
                if self.stopping and not draining:
                    draining = True
                    logger.info("stopping: calls under way are let finish: %d", len(self._calls))
                claimed = 0
                try:
                    self._settle_finished()
                    self._tally.report(at_once=once or self.stopping)
                    claimed = 0 if self.stopping else self._claim_into(pool)
                    self._housekeeping(pool)
                    idle = not self._calls and (self.stopping or (once and not claimed and self._drained()))
                    if idle:
                        self._heartbeat.end()
                except DatabaseError as error:
                    # Nothing is lost: outcomes stay in `_calls` until they are committed. An outcome that cannot be
                    # written before its lease ends is unknown, as if the worker had died.
                    logger.error("database: %s; trying again", type(error.__cause__ or error).__name__)
                    connection.close()
                    idle = self.stopping and not self._can_still_settle()
                    if not idle:
                        time.sleep(DATABASE_RETRY_S)
                if idle and (draining or not self.stopping):
                    break
                self._rest(busy=claimed > 0)
        # The pool has let the chores under way end. What is not written here is done once more, after its lease.
        with contextlib.suppress(DatabaseError):
            self._chores.finish()
        if draining:
            logger.info("stopped: what waits stays in the queue; of unknown outcome: %d", len(self._calls))

    def _can_still_settle(self) -> bool:
        """Whether a lease of ours still runs: when the last is over, waiting for the database is of no use."""
        now = time.monotonic()
        return any(now < claimed.claimed_at + _lease_s(claimed.provider) for claimed in self._calls.values())

    def _claim_into(self, pool: ThreadPoolExecutor) -> int:
        routing.assign()
        under_way = Counter(claimed.provider for claimed in self._calls.values())
        count = 0
        for provider in provider_names():
            if not self._avoids(provider) and (free := self.concurrency - under_way[provider]):
                with self._trouble_kept_to(provider):
                    # Each is under way before the next provider's claim, which may fail.
                    for claimed in claim(provider, free):
                        self._calls[pool.submit(call, claimed)] = claimed
                        count += 1
        return count

    def _avoids(self, provider: str) -> bool:
        return time.monotonic() < self._avoided_until.get(provider, 0)

    @contextlib.contextmanager
    def _trouble_kept_to(self, provider: str) -> Iterator[None]:
        """Whatever is wrong with one provider's queue or code is told, and keeps no other waiting."""
        try:
            yield
        except Exception as error:
            if _is_without_database(error):
                raise
            logger.exception("provider %s makes trouble; the others go on", provider)
            if isinstance(error, DatabaseError):
                self._avoided_until[provider] = time.monotonic() + DATABASE_RETRY_S
            else:
                self._avoided_until[provider] = time.monotonic() + PROVIDER_RETRY_S
                self._broken.add(provider)

    def _drained(self) -> bool:
        unable = ProviderState.paused() | set(filter(self._avoids, self._broken))
        return not routing.divert() and not Outbox.objects.due().exclude(provider__in=unable).exists()

    def _settle_finished(self) -> None:
        """Write what the finished calls came to: all in one go, or user by user when that fails."""
        now = time.monotonic()
        self._locked_until = {user_id: until for user_id, until in self._locked_until.items() if until > now}
        finished = {
            future: claimed
            for future, claimed in self._calls.items()
            if future.done() and claimed.user_id not in self._locked_until
        }
        try:
            self._settle(finished)
        except Exception:  # noqa: BLE001  # whatever it is, it is found where it belongs, below
            connection.ensure_connection()  # without a database there is nothing to try again now
            for user_id in {claimed.user_id for claimed in finished.values()}:
                self._settle_user(
                    user_id, {future: claimed for future, claimed in finished.items() if claimed.user_id == user_id}
                )

    def _settle(self, finished: dict[Future[Result], Claim]) -> None:
        if not finished:
            return
        ended = outcomes.settle((claimed.attempt_id, future.result()) for future, claimed in finished.items())
        for future, claimed in finished.items():
            if claimed.attempt_id in ended:  # else it is counted already, and too old to tell how the provider is
                self._tally.add(claimed.provider, future.result())
            del self._calls[future]

    def _settle_user(self, user_id: uuid.UUID, finished: dict[Future[Result], Claim]) -> None:
        """One user's outcomes. While his account is locked they wait; one that contradicts the books is given up."""
        try:
            self._settle(finished)
        except OperationalError as error:
            if _is_without_database(error):
                raise
            self._locked_until[user_id] = time.monotonic() + LOCKED_RETRY_S
        except Exception:  # noqa: BLE001  # it is told below, with the message it belongs to
            for future, claimed in finished.items():
                try:
                    self._settle({future: claimed})
                except Exception as error:
                    if _is_without_database(error):
                        raise
                    # Left to the end of its lease: then it is unknown, and the audit names what is wrong.
                    logger.exception("outbox %s: its outcome cannot be written", claimed.message.reference)
                    del self._calls[future]

    def _housekeeping(self, pool: ThreadPoolExecutor) -> None:
        self._heartbeat.beat(len(self._calls))
        for name in provider_names():
            if not self._avoids(name):
                with self._trouble_kept_to(name):
                    self._receipts.extend((name, receipt) for receipt in get_provider(name).collect_receipts())
        self._apply_receipts()
        self._chores.finish()
        now = time.monotonic()
        if now >= self._chores_at and not self.stopping:
            self._chores_at = now + CHORES_S
            self._chores.begin(pool)
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_S
            self._sweep()
        if now >= self._purge_at:
            self._purge_at = now + (SWEEP_S if self._purge() else PURGE_S)

    def _sweep(self) -> None:
        for sweep in (outcomes.end_leases, outcomes.expire, outcomes.end_unknown, routing.reclaim, routing.divert):
            with _kept_apart(sweep.__name__):
                if swept := sweep():
                    logger.info("%s: %d", sweep.__name__, swept)
        with _kept_apart("watch_unknown"):
            notices.watch_unknown()
        if not self.stopping:
            self._audit.look()

    @staticmethod
    def _purge() -> bool:
        """Forget what is old; returns whether there is more of it."""
        more = False
        for purge in (idempotency.purge, deliveries.purge, limits.purge, all_notices.purge):
            with _kept_apart(f"{purge.__module__}.purge"):
                more = purge() >= PURGE_BATCH or more
        return more

    def _apply_receipts(self) -> None:
        until = time.monotonic() + RECEIPTS_S  # of many, the rest next time: answers must be settled too
        while self._receipts and not self._receipts_wait() and time.monotonic() < until:
            provider, receipt = self._receipts[0]
            try:
                receipts.apply(provider, receipt)
            except OperationalError as error:
                if _is_without_database(error):
                    raise
                self._receipts.rotate(-1)  # an account or a message is locked: the others' come first
                self._receipts_at = time.monotonic() + LOCKED_RETRY_S
            except Exception as error:
                if _is_without_database(error):
                    raise
                logger.exception("provider %s: a receipt that it has collected cannot be kept", provider)
                self._receipts.popleft()
            else:
                self._receipts.popleft()

    def _receipts_wait(self) -> bool:
        return time.monotonic() < self._receipts_at

    def _rest(self, *, busy: bool) -> None:
        """Wait until a call ends or it is time to look again; not at all while there is work and room for it."""
        if (busy and len(self._calls) < self.concurrency) or (self._receipts and not self._receipts_wait()):
            return
        under_way = [future for future in self._calls if not future.done()]
        if under_way:
            wait(under_way, timeout=POLL_S, return_when=FIRST_COMPLETED)
        elif not self._calls or self._locked_until:
            time.sleep(POLL_S)


@contextlib.contextmanager
def _kept_apart(sweep: str) -> Iterator[None]:
    """What keeps one sweep from its work keeps no other."""
    try:
        yield
    except Exception as error:
        if _is_without_database(error):
            raise
        logger.exception("%s failed; it is tried again", sweep)


def _is_without_database(error: Exception) -> bool:
    return isinstance(error, DatabaseError) and not connection.is_usable()
