"""Hand due messages to providers: claim, call, settle. The only caller of providers.

The outbox table is the queue. A claim commits an attempt, with a lease, before a byte leaves; the call happens outside
any transaction; its outcome is written only while the attempt is still open. A worker that dies leaves an open attempt,
and when the lease is over the outcome is unknown: nobody sends that message again of his own accord.
"""

import logging
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import timedelta

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from outbox import idempotency, outcomes, receipts, routing
from outbox.models import Attempt, Outbox
from outbox.outcomes import Result
from outbox.providers import get_provider
from outbox.providers.base import Message, OutcomeUnknown, ProviderError, Unavailable

logger = logging.getLogger(__name__)

CONCURRENCY = 64  # calls at once, in one process
POLL_S = 0.1  # how often an idle worker looks for work
SWEEP_S = 1.0  # how often it looks for what the clock has ended
PURGE_S = 600.0
LEASE_MARGIN_S = 15  # what a call may take on top of its provider's own limit, before its worker is taken for dead
NO_ROUTE_RETRY_S = 60
DATABASE_RETRY_S = 1.0


@dataclass(frozen=True)
class Claim:
    """One attempt that is ours until its lease ends."""

    attempt_id: int
    provider: str
    message: Message
    claimed_at: float = field(default_factory=time.monotonic)


@transaction.atomic
def claim(limit: int) -> list[Claim]:
    """Take up to `limit` due messages; those that another worker is taking at this moment are passed over."""
    entries = list(Outbox.objects.due().select_for_update(skip_locked=True)[:limit])
    routed = [(entry, routing.choose(entry.recipient, entry.attempt_count + 1)) for entry in entries]
    _put_off([entry for entry, provider in routed if provider is None])
    attempts = Attempt.objects.bulk_create(
        Attempt(
            outbox=entry,
            number=entry.attempt_count + 1,
            hold_reference=entry.hold_reference,
            provider=provider,
            lease_expires_at=Now() + timedelta(seconds=get_provider(provider).timeout_s + LEASE_MARGIN_S),
        )
        for entry, provider in routed
        if provider is not None
    )
    Outbox.objects.filter(pk__in=[attempt.outbox_id for attempt in attempts]).update(
        due_at=None, last_attempt_at=Now(), attempt_count=F("attempt_count") + 1
    )
    return [Claim(attempt.pk, attempt.provider, _message(attempt.outbox, attempt.number)) for attempt in attempts]


def _put_off(unrouted: list[Outbox]) -> None:
    if unrouted:
        Outbox.objects.filter(pk__in=[entry.pk for entry in unrouted]).update(
            due_at=Now() + timedelta(seconds=NO_ROUTE_RETRY_S),
            error_code="no_route",
            error_details="No provider is set up for this destination. It waits for one until it expires.",
        )


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
        return Unavailable("The worker was too slow to begin.", code="worker_stalled")
    try:
        return get_provider(claimed.provider).send(claimed.message)
    except ProviderError as error:
        return error
    except Exception:
        # A mistake in a provider's code proves nothing about the message.
        logger.exception("provider %s broke on outbox %s", claimed.provider, claimed.message.reference)
        return OutcomeUnknown("The provider's answer could not be understood.")


class Dispatcher:
    """One worker process: many calls at once, one thread that talks to the database.

    Any number of them share the outbox; `stop()` lets the calls under way finish and ends run().
    """

    def __init__(self, concurrency: int = CONCURRENCY) -> None:
        self.concurrency = concurrency
        self.stopping = False
        self._calls: dict[Future[Result], int] = {}  # attempt ids of calls under way or not yet settled
        self._sweep_at = self._purge_at = 0.0

    def stop(self) -> None:
        self.stopping = True

    def run(self, *, once: bool = False) -> None:
        """Work until stop(); with `once`, until nothing is due and nothing under way."""
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="call") as pool:
            while True:
                try:
                    self._settle_finished()
                    claimed = 0 if self.stopping else self._claim_into(pool)
                    self._housekeeping()
                except (DatabaseError, InterfaceError) as error:
                    # Nothing is lost: outcomes stay in `_calls` until they are committed. An outcome that cannot be
                    # written before its lease ends is unknown, as if the worker had died.
                    logger.error("database: %s; trying again", type(error.__cause__ or error).__name__)
                    connection.close()
                    time.sleep(DATABASE_RETRY_S)
                    continue
                if not self._calls and (self.stopping or (once and not claimed)):
                    return
                self._rest(busy=claimed > 0)

    def _claim_into(self, pool: ThreadPoolExecutor) -> int:
        free = self.concurrency - len(self._calls)
        claims = claim(free) if free else []
        for claimed in claims:
            self._calls[pool.submit(call, claimed)] = claimed.attempt_id
        return len(claims)

    def _settle_finished(self) -> None:
        finished = [future for future in self._calls if future.done()]
        if finished:
            outcomes.settle((self._calls[future], future.result()) for future in finished)
            for future in finished:
                del self._calls[future]

    def _housekeeping(self) -> None:
        for name, provider in {name: get_provider(name) for name in settings.SMS_PROVIDERS}.items():
            for receipt in provider.collect_receipts():
                receipts.apply(name, receipt)
        now = time.monotonic()
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_S
            for sweep in (outcomes.end_leases, outcomes.expire, outcomes.end_unknown):
                if ended := sweep():
                    logger.info("%s: %d", sweep.__name__, ended)
        if now >= self._purge_at:
            self._purge_at = now + PURGE_S
            idempotency.purge()

    def _rest(self, *, busy: bool) -> None:
        """Wait until a call ends or it is time to look again; not at all while there is work and room for it."""
        if busy and len(self._calls) < self.concurrency:
            return
        if self._calls:
            wait(self._calls, timeout=POLL_S, return_when=FIRST_COMPLETED)
        else:
            time.sleep(POLL_S)
