"""What one message, one account or one provider does never stops the others."""

import logging
import threading
import time
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connection, connections, transaction
from django.db.models.functions import Now

from billing import ledger
from billing.models import Account
from outbox import audit, circuits, outcomes, receipts, sending
from outbox.dispatch import Dispatcher, claim
from outbox.models import Attempt, Outbox
from outbox.providers.base import Accepted, DeliveryReceipt, OutcomeUnknown, Rejected, Unavailable
from tests.factories import UserFactory
from tests.threads import at_once

INNOCENT = "+254711000099"


def drain():
    Dispatcher(concurrency=8).run(once=True)


def send(account, recipient="+254711000001"):
    return sending.send(account.user, recipient=recipient, text="x")


@pytest.mark.parametrize(
    "result",
    [
        Accepted("x" * 129),
        Accepted("a\x00b"),
        Accepted(7),
        Accepted({"id": 1}),
        Rejected("no" * 5_000, code="c" * 41),
        Rejected("a\ud800\x00b"),
        Unavailable("busy", retry_after=float("inf")),
        Unavailable("busy", retry_after=float("nan")),
        Unavailable("busy", retry_after=-1),
        OutcomeUnknown(None),
        None,
        "an-id",
    ],
)
def test_a_provider_that_answers_nonsense_stops_nobody(account, provider, monkeypatch, result):
    odd, innocent = send(account), send(account, INNOCENT)

    def answer(message):
        if message.recipient == INNOCENT:
            return Accepted("fine")
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(provider, "send", answer)

    drain()

    odd.refresh_from_db()
    innocent.refresh_from_db()
    assert innocent.status == "sent"
    assert odd.attempts.get().outcome is not None
    if isinstance(result, Unavailable):
        assert odd.due_at - odd.last_attempt_at < timedelta(minutes=20)


def test_a_message_whose_records_contradict_each_other_is_put_off(account, provider, caplog):
    broken, innocent = send(account), send(account, INNOCENT)
    Attempt.objects.create(
        outbox=broken,
        number=1,
        hold_reference=broken.hold_reference,
        provider="locmem",
        lease_expires_at=Now(),
        finished_at=Now(),
        outcome="unavailable",
    )

    drain()

    broken.refresh_from_db()
    innocent.refresh_from_db()
    assert innocent.status == "sent"
    assert (broken.status, broken.error_code) == ("pending", "internal_error")
    assert str(broken.pk) in caplog.text


def test_an_outcome_that_contradicts_the_books_is_left_to_the_audit(account, provider, caplog):
    broken, innocent = send(account), send(account, INNOCENT)
    ledger.release(broken.hold_reference)
    caplog.set_level(logging.CRITICAL, "outbox.dispatch")

    drain()

    innocent.refresh_from_db()
    assert innocent.status == "sent"
    assert any(str(broken.pk) in finding for finding in audit.broken())


def test_a_sweep_passes_over_what_contradicts_the_books(account, provider):
    broken, innocent = send(account), send(account, INNOCENT)
    ledger.release(broken.hold_reference)
    Outbox.objects.update(expires_at=Now())

    assert outcomes.expire() == 1

    innocent.refresh_from_db()
    assert innocent.error_code == "expired"


def test_an_unrouted_message_does_not_end_the_drain(account, provider, settings):
    settings.SMS_ROUTES = {"+254711": ["locmem"]}
    for _ in range(3):
        send(account, "+254722000001")
    routed = send(account, INNOCENT)

    Dispatcher(concurrency=2).run(once=True)

    routed.refresh_from_db()
    assert routed.status == "sent"


@pytest.mark.django_db(transaction=True)
def test_a_locked_account_does_not_keep_others_waiting(account, provider):
    other = ledger.account_of(UserFactory())
    ledger.top_up(other, Decimal(5), reason="x")
    stuck, innocent = send(account), send(other, INNOCENT)
    locked, done = threading.Event(), threading.Event()

    def hold_lock():
        with transaction.atomic():
            Account.objects.select_for_update().get(pk=account.pk)
            locked.set()
            done.wait(30)
        connections.close_all()

    def work():
        dispatcher.run()
        connections.close_all()

    dispatcher = Dispatcher(concurrency=4)
    threads = [threading.Thread(target=target) for target in (hold_lock, work)]
    threads[0].start()
    assert locked.wait(30)
    threads[1].start()
    deadline = time.monotonic() + 30
    while not Outbox.objects.filter(pk=innocent.pk, status="sent").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert Outbox.objects.get(pk=stuck.pk).status == "pending"

    done.set()
    while not Outbox.objects.filter(pk=stuck.pk, status="sent").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    dispatcher.stop()
    for thread in threads:
        thread.join(30)


@pytest.mark.django_db(transaction=True)
def test_racing_sweeps_give_each_hold_back_once(account, provider):
    ledger.top_up(account, Decimal(300), reason="more")
    for number in range(300):
        send(account, f"+25471100{number:04}")
    Outbox.objects.update(expires_at=Now())

    def sweep(_):
        while Outbox.objects.filter(status="pending").exists():
            outcomes.expire()

    assert at_once(6, sweep) == [None] * 6

    account.refresh_from_db()
    assert (account.balance, account.held) == (Decimal(310), Decimal(0))
    assert list(audit.broken()) == []


@pytest.mark.django_db(transaction=True)
def test_a_sweep_that_meets_a_receipt_settles_once(account, provider, monkeypatch):
    monkeypatch.setattr(circuits, "PAUSE_AT", 1000)
    ledger.top_up(account, Decimal(100), reason="more")
    provider.error = OutcomeUnknown("no answer")
    entries = [send(account, f"+25471100{number:04}") for number in range(60)]
    drain()
    Outbox.objects.update(last_attempt_at=Now() - timedelta(hours=73))

    def act(number):
        if number < 3:
            while Outbox.objects.filter(status="pending").exists():
                outcomes.end_unknown()
        else:
            for entry in entries[number - 3 :: 3]:
                receipts.apply("locmem", DeliveryReceipt("delivered", str(entry.pk)))

    assert at_once(6, act) == [None] * 6

    assert Outbox.objects.filter(status="sent", delivery_status="delivered").count() == 60
    account.refresh_from_db()
    assert account.held == 0
    assert list(audit.broken()) == []


@pytest.mark.django_db(transaction=True)
def test_a_worker_without_a_database_waits_for_it_and_ends_when_told_to(account, provider, monkeypatch):
    entry = send(account)
    monkeypatch.setattr("outbox.dispatch.DATABASE_RETRY_S", 0.05)
    claims = iter([True, True])

    def failing(provider, limit):
        if next(claims, False):
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return claim(provider, limit)

    monkeypatch.setattr("outbox.dispatch.claim", failing)

    drain()

    entry.refresh_from_db()
    assert entry.status == "sent"
