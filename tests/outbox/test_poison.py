"""A message, a receipt, a row or a provider's code that cannot be dealt with is told of, and stops nobody else."""

import logging
from concurrent.futures import Future
from datetime import timedelta

import pytest
from django.db import IntegrityError, connection
from django.db.models.functions import Now

from billing import ledger
from outbox import audit, outcomes, sending
from outbox import dispatch as dispatching
from outbox.dispatch import Dispatcher, claim
from outbox.models import Attempt, AttemptCount, Outbox, Receipt
from outbox.outcomes import Result
from outbox.providers import get_provider
from outbox.providers.base import Accepted, DeliveryReceipt, OutcomeUnknown, ProviderError, Rejected, Unavailable
from outbox.providers.locmem import Provider as LocmemProvider
from smsportal import chores
from tests.dispatchers import at_work, wait_until
from tests.outbox.attempts import hand_over
from tests.outbox.gateway import make
from tests.threads import at_once

INNOCENT = "+254711000099"
LOCMEM = {"BACKEND": "outbox.providers.locmem.Provider"}


def send(account, recipient="+254711000001", text="x"):
    return sending.send(account.user, recipient=recipient, text=text)


def work():
    Dispatcher(concurrency=8).run(once=True)


def status_of(entry):
    entry.refresh_from_db()
    return entry.status, entry.outcome


class HasNoDetails(ProviderError):
    def __init__(self):
        pass


class NoLonger(LocmemProvider):
    """One that the checks could make, and this process cannot."""

    def __init__(self, name: str) -> None:
        raise OSError("its certificate cannot be read")


# --- a provider's code ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raised",
    [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), RecursionError(), MemoryError(), StopIteration(),
     UnicodeEncodeError("ascii", "é", 0, 1, "no"), BaseException("anything"), HasNoDetails()],
    ids=lambda raised: type(raised).__name__,
)  # fmt: skip
def test_whatever_a_providers_code_raises_only_its_own_message_is_unknown(account, provider, monkeypatch, raised):
    odd, innocent = send(account), send(account, INNOCENT)

    def answer(message):
        if message.recipient == INNOCENT:
            return Accepted("fine")
        raise raised

    monkeypatch.setattr(provider, "send", answer)

    work()
    Attempt.objects.filter(outcome=None).update(lease_expires_at=Now() - timedelta(seconds=1))
    work()

    assert status_of(innocent) == ("sent", None)
    assert status_of(odd) == ("pending", "unknown")
    assert list(audit.broken()) == []


def test_a_text_that_cannot_be_put_into_the_request_fails_alone(account, provider, monkeypatch):
    gateway = make("http://127.0.0.1:9/", headers={"X-Text": "{text}"})  # a header holds no line break
    monkeypatch.setattr(provider, "send", lambda message: gateway.send(message) if "\n" in message.text else Accepted())
    odd, innocent = send(account, text="two\nlines"), send(account, INNOCENT)

    work()

    assert status_of(innocent) == ("sent", None)
    assert status_of(odd) == ("failed", None)
    assert odd.charge_status == "released"


@pytest.fixture
def with_a_broken_one(settings):
    """A provider that cannot be made, and one that works, each for numbers of its own."""
    settings.SMS_PROVIDERS = {"broken": {"BACKEND": "tests.outbox.test_poison.NoLonger"}, "locmem": LOCMEM}
    settings.SMS_ROUTES = {"+254722": ["broken"], "default": ["locmem"]}
    get_provider.cache_clear()
    yield
    get_provider.cache_clear()


def test_a_provider_that_cannot_be_made_keeps_only_its_own_messages_waiting(account, with_a_broken_one, caplog):
    waits, goes = send(account, "+254722000001"), send(account, INNOCENT)

    work()

    assert status_of(goes) == ("sent", None)
    assert status_of(waits) == ("pending", None)
    assert waits.attempt_count == 0
    assert "provider broken makes trouble" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_what_is_claimed_is_sent_though_the_next_providers_queue_makes_trouble(account, settings, monkeypatch):
    settings.SMS_PROVIDERS = {"locmem": LOCMEM, "other": LOCMEM}
    entry = send(account)

    def claim_or_break(provider, limit):
        if provider == "other":
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return claim(provider, limit)

    monkeypatch.setattr(dispatching, "claim", claim_or_break)
    monkeypatch.setattr(dispatching, "DATABASE_RETRY_S", 0.02)
    with at_work(Dispatcher(concurrency=2)):
        wait_until(lambda: Outbox.objects.get(pk=entry.pk).status == "sent")


def test_a_provider_that_breaks_on_collecting_receipts_stops_nobody(account, provider, monkeypatch, caplog):
    monkeypatch.setattr(provider, "collect_receipts", lambda: {}["nothing"])
    entry = send(account)

    work()

    assert status_of(entry) == ("sent", None)
    assert "provider locmem makes trouble" in caplog.text


# --- receipts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "poison",
    [
        DeliveryReceipt("delivered", provider_message_id="x" * 200, raw={}),
        DeliveryReceipt("delivered", raw={"what": object()}),
        DeliveryReceipt("a status nobody knows, and too long at that", raw={}),
        DeliveryReceipt("delivered", details="\x00", raw={}),
        None,
    ],
)
def test_a_receipt_that_cannot_be_kept_does_not_stop_those_behind_it(account, provider, monkeypatch, caplog, poison):
    entry = send(account)
    work()
    good = DeliveryReceipt("delivered", str(entry.pk), "locmem-1")
    batches = iter([[poison, good]])
    monkeypatch.setattr(provider, "collect_receipts", lambda: next(batches, []))

    work()

    entry.refresh_from_db()
    assert entry.delivery_status == "delivered"
    assert Receipt.objects.count() == 1
    assert "cannot be kept" in caplog.text


# --- rows that contradict each other, after a repair by hand ----------------------------------------------------------


def test_a_message_whose_count_cannot_grow_is_put_off(account, provider):
    broken, innocent = send(account), send(account, INNOCENT)
    Outbox.objects.filter(pk=broken.pk).update(attempt_count=2**31 - 1)

    work()

    broken.refresh_from_db()
    assert status_of(innocent) == ("sent", None)
    assert (broken.status, broken.error_code) == ("pending", "internal_error")


def test_a_dead_attempt_that_contradicts_its_message_does_not_keep_others_from_ending(account, provider, caplog):
    caplog.set_level(logging.CRITICAL, "outbox.outcomes")
    repaired, dead = send(account), send(account, INNOCENT)
    for entry in (repaired, dead):
        hand_over(entry)
    Outbox.objects.filter(pk=repaired.pk).update(due_at=Now() + timedelta(hours=1))  # due, and in a provider's hands
    overdue = send(account)
    Outbox.objects.filter(pk=overdue.pk).update(expires_at=Now())
    Attempt.objects.update(lease_expires_at=Now() - timedelta(minutes=6))

    work()

    assert status_of(dead) == ("pending", "unknown")
    assert status_of(overdue) == ("failed", None)
    assert any(str(repaired.pk) in finding for finding in audit.broken())


@pytest.mark.parametrize("forgotten", [0, chores.PURGE_BATCH])
def test_a_purge_that_fails_keeps_no_other_from_its_work_and_a_full_one_is_not_the_last(
    db, provider, monkeypatch, caplog, forgotten
):
    calls = []

    def purge():
        calls.append(1)
        return 0 if len(calls) > 1 else forgotten

    def broken():
        raise TypeError

    monkeypatch.setattr(dispatching, "SWEEP_S", 0)
    monkeypatch.setattr(dispatching.idempotency, "purge", broken)
    monkeypatch.setattr(dispatching.limits, "purge", purge)
    dispatcher = Dispatcher()
    dispatcher.stop()  # it begins no chores

    for _ in range(3):
        dispatcher._housekeeping(None)

    assert len(calls) == (2 if forgotten else 1)
    assert "failed; it is tried again" in caplog.text


def test_a_sweep_that_fails_keeps_no_other_from_its_work(account, provider, monkeypatch, caplog):
    def end_leases():
        raise IntegrityError("a row that nobody has thought of")

    monkeypatch.setattr(outcomes, "end_leases", end_leases)
    overdue = send(account)
    Outbox.objects.update(expires_at=Now())

    work()

    assert status_of(overdue) == ("failed", None)
    assert "end_leases failed" in caplog.text


# --- counting ---------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_an_attempt_whose_lease_was_ended_is_counted_once_however_many_look(account, provider):
    ledger.top_up(account, 40, reason="more")
    for number in range(40):
        hand_over(send(account, f"+25471100{number:04}"))
    Attempt.objects.update(lease_expires_at=Now() - timedelta(seconds=1))

    assert sum(at_once(6, lambda _: outcomes.end_leases())) == 40

    assert AttemptCount.objects.get().attempts == 40
    assert list(audit.broken()) == []


@pytest.mark.parametrize("late", [Accepted("p1"), Rejected("no"), Unavailable("busy"), OutcomeUnknown("time-out")])
def test_a_late_answer_is_counted_neither_twice_nor_against_the_provider(account, provider, monkeypatch, late):
    entry = send(account)

    def answer(message):
        Attempt.objects.update(lease_expires_at=Now() - timedelta(seconds=1))
        outcomes.end_leases()  # another worker's, while this one is stalled
        return late

    monkeypatch.setattr(dispatching, "call", lambda claimed: answer(claimed.message))
    dispatcher = Dispatcher(concurrency=1)
    claimed = claim("locmem", 1)
    monkeypatch.setattr(dispatching, "claim", lambda provider, limit: [claimed.pop()] if claimed else [])
    monkeypatch.setattr(dispatching, "ThreadPoolExecutor", AtOnce)

    dispatcher.run(once=True)

    assert status_of(entry) == ("pending", "unknown")
    assert list(AttemptCount.objects.values_list("outcome", "attempts")) == [("unknown", 1)]


class AtOnce:
    """A pool that makes its calls where they are submitted: in the test's own transaction."""

    def __init__(self, *args, **kwargs) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def submit(self, call, claimed):
        future: Future[Result] = Future()
        future.set_result(call(claimed))
        return future
