"""Claim, call, settle: every outcome moves the message and its money as promised, and nobody is called twice."""

import threading
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connections
from django.db.models.functions import Now

from outbox import dispatch as dispatching
from outbox import outcomes, sending
from outbox.dispatch import Dispatcher, call, claim
from outbox.models import Attempt, Outbox
from outbox.providers.base import Accepted, OutcomeUnknown, Rejected, Unavailable
from smsportal.instants import database_now
from smsportal.models import User
from tests.factories import PriceFactory
from tests.threads import at_once


def drain():
    Dispatcher(concurrency=4).run(once=True)


def send(account, recipient="+254711000001", **options):
    return sending.send(account.user, recipient=recipient, text="Your code is 4321", **options)


def money(account):
    account.refresh_from_db()
    return account.balance, account.held


@pytest.fixture
def entry(account):
    return send(account)


def test_an_accepted_message_is_sent_and_charged(entry, account, provider):
    drain()

    entry.refresh_from_db()
    assert (entry.status, entry.charge_status, entry.due_at) == ("sent", "charged", None)
    assert entry.sent_at is not None
    assert entry.last_attempt_at is not None
    assert money(account) == (Decimal(9), Decimal(0))
    (message,) = provider.messages
    assert (message.text, message.reference, message.sender_id) == ("Your code is 4321", str(entry.pk), "MYBRAND")
    attempt = entry.attempts.get()
    assert (attempt.outcome, attempt.provider_message_id, attempt.provider) == ("accepted", "locmem-1", "locmem")


def test_a_rejected_message_fails_and_gives_its_money_back(entry, account, provider):
    provider.error = Rejected("unknown subscriber", code="invalid_recipient")

    drain()

    entry.refresh_from_db()
    assert (entry.status, entry.charge_status) == ("failed", "released")
    assert (entry.error_code, entry.error_details) == ("invalid_recipient", "unknown subscriber")
    assert money(account) == (Decimal(10), Decimal(0))


def test_an_unavailable_provider_is_tried_again_later_and_costs_no_retry(entry, account, provider):
    provider.error = Unavailable("busy", code="provider_busy", retry_after=30)

    drain()

    entry.refresh_from_db()
    assert (entry.status, entry.outcome, entry.retry_count) == ("pending", None, 0)
    assert entry.error_code == "provider_busy"
    assert timedelta(seconds=29) < entry.due_at - entry.last_attempt_at < timedelta(seconds=40)
    assert money(account) == (Decimal(10), Decimal(1))
    provider.error = None
    Outbox.objects.update(due_at=Now())
    drain()
    entry.refresh_from_db()
    assert (entry.status, entry.attempt_count, entry.error_code) == ("sent", 2, None)


@pytest.mark.parametrize("error", [OutcomeUnknown("no answer"), RuntimeError("a mistake in the provider's code")])
def test_an_unknown_outcome_keeps_the_money_held_and_is_not_tried_again(entry, account, provider, error):
    provider.error = error

    drain()
    provider.error = None
    drain()

    entry.refresh_from_db()
    assert (entry.status, entry.outcome, entry.due_at) == ("pending", "unknown", None)
    assert entry.error_code == "outcome_unknown"
    assert "may have taken" in entry.error_details
    assert money(account) == (Decimal(10), Decimal(1))
    assert len(provider.messages) == 1


def test_an_unknown_outcome_ends_as_failed_when_its_window_is_over(entry, account, provider):
    provider.error = OutcomeUnknown("no answer")
    drain()
    assert outcomes.end_unknown() == 0
    Outbox.objects.update(last_attempt_at=Now() - timedelta(hours=73))

    assert outcomes.end_unknown() == 1

    entry.refresh_from_db()
    assert (entry.status, entry.outcome, entry.error_code) == ("failed", None, "outcome_unknown")
    assert entry.charge_status == "released"
    assert money(account) == (Decimal(10), Decimal(0))


def test_what_nobody_could_take_in_time_expires_and_gives_its_money_back(entry, account, provider):
    Outbox.objects.update(expires_at=Now())

    drain()

    entry.refresh_from_db()
    assert (entry.status, entry.error_code, entry.charge_status) == ("failed", "expired", "released")
    assert provider.messages == []
    assert money(account) == (Decimal(10), Decimal(0))


def test_a_message_costs_what_it_cost_when_it_was_accepted(entry, account, provider):
    PriceFactory(price_per_segment=Decimal(7), effective_from=database_now())

    drain()

    entry.refresh_from_db()
    assert (entry.status, entry.price_per_segment, entry.total_cost) == ("sent", Decimal(1), Decimal(1))
    assert money(account) == (Decimal(9), Decimal(0))


def test_what_was_accepted_is_sent_though_its_user_was_disabled_and_his_key_revoked(account, api, provider):
    outbox_id = api.post("/api/sms/send", {"recipientPhoneNumber": "+254711000001", "message": "x"}).json()["outboxId"]
    User.objects.filter(pk=account.user_id).update(is_active=False)
    account.user.api_keys.update(revoked_at=Now())

    drain()

    entry = Outbox.objects.get(pk=outbox_id)
    assert (entry.status, entry.charge_status) == ("sent", "charged")
    assert api.get(f"/api/sms/outbox/{outbox_id}").status_code == 401


def test_a_scheduled_message_waits_for_its_time(account, provider):
    entry = send(account, scheduled_at=account.postings.get().created_at + timedelta(hours=1))
    drain()
    assert provider.messages == []

    Outbox.objects.update(due_at=Now())
    drain()

    entry.refresh_from_db()
    assert entry.status == "sent"


def test_high_priority_goes_first(account, provider, monkeypatch):
    monkeypatch.setattr("random.random", lambda: 0.99)  # one place in four is not its own, here by chance
    send(account, recipient="+254711000001")
    send(account, recipient="+254711000002", priority=Outbox.Priority.HIGH)

    Dispatcher(concurrency=1).run(once=True)

    assert [message.recipient for message in provider.messages] == ["+254711000002", "+254711000001"]


def test_a_destination_without_a_provider_waits_and_says_so(account, provider, settings):
    settings.SMS_ROUTES = {"+44": ["locmem"]}
    entry = send(account)

    drain()

    entry.refresh_from_db()
    assert (entry.status, entry.error_code, entry.attempt_count) == ("pending", "no_route", 0)


def test_a_dead_workers_attempt_becomes_unknown_when_its_lease_ends(entry, provider):
    claim("locmem", 10)
    assert outcomes.end_leases() == 0
    Attempt.objects.update(lease_expires_at=Now() - timedelta(seconds=1))

    drain()

    entry.refresh_from_db()
    assert (entry.status, entry.outcome) == ("pending", "unknown")
    assert provider.messages == []


@pytest.mark.parametrize("late", [Accepted("p1"), Rejected("no"), Unavailable("busy")])
def test_a_worker_that_wakes_after_its_lease_writes_nothing(entry, account, provider, late):
    (claimed,) = claim("locmem", 10)
    Attempt.objects.update(lease_expires_at=Now() - timedelta(seconds=1))
    outcomes.end_leases()

    assert outcomes.settle([(claimed.attempt_id, late)]) == set()

    entry.refresh_from_db()
    assert (entry.status, entry.outcome) == ("pending", "unknown")
    assert money(account) == (Decimal(10), Decimal(1))


def test_a_worker_that_stalled_before_the_call_does_not_call(entry, provider, monkeypatch):
    (claimed,) = claim("locmem", 10)
    monkeypatch.setattr(dispatching, "LEASE_MARGIN_S", -1)

    assert isinstance(call(claimed), Unavailable)
    assert provider.messages == []


def test_settling_the_same_outcome_twice_moves_the_money_once(entry, account, provider):
    (claimed,) = claim("locmem", 10)

    assert outcomes.settle([(claimed.attempt_id, Accepted("p1"))]) == {claimed.attempt_id}
    assert outcomes.settle([(claimed.attempt_id, Accepted("p1"))]) == set()

    assert money(account) == (Decimal(9), Decimal(0))


def test_the_attempt_is_committed_before_the_provider_is_called(entry, provider, monkeypatch):
    seen = []
    monkeypatch.setattr(
        provider, "send", lambda message: seen.append(Attempt.objects.get(outcome=None)) or Accepted("p1")
    )

    call(claim("locmem", 10)[0])

    assert seen[0].outbox_id == entry.pk


@pytest.mark.django_db(transaction=True)
def test_several_workers_hand_each_message_over_once(account, provider):
    from billing import ledger

    ledger.top_up(account, Decimal(200), reason="more")
    for number in range(200):
        send(account, recipient=f"+25471100{number:04}")

    assert at_once(4, lambda _: Dispatcher(concurrency=8).run(once=True)) == [None] * 4

    assert len(provider.messages) == 200
    assert len({message.reference for message in provider.messages}) == 200
    assert Outbox.objects.filter(status="sent", charge_status="charged").count() == 200
    assert money(account) == (Decimal(10), Decimal(0))


@pytest.mark.django_db(transaction=True)
def test_stopping_lets_the_calls_under_way_finish_and_claims_no_more(account, provider, monkeypatch):
    send(account)
    calling, go_on = threading.Event(), threading.Event()

    def slow(message):
        calling.set()
        assert go_on.wait(30)
        return Accepted("p1")

    monkeypatch.setattr(provider, "send", slow)
    dispatcher = Dispatcher(concurrency=1)

    def work():
        dispatcher.run()
        connections.close_all()

    worker = threading.Thread(target=work)
    worker.start()
    assert calling.wait(30)
    send(account, recipient="+254711000002")
    dispatcher.stop()
    go_on.set()
    worker.join(30)

    assert not worker.is_alive()
    assert list(Outbox.objects.order_by("id").values_list("status", flat=True)) == ["sent", "pending"]
