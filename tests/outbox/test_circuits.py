"""A provider that does not work is left alone and tried again, by all workers together, and stops nobody else."""

import threading
import time
from collections import Counter
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connection
from django.db.models.functions import Now

from billing import ledger
from outbox import circuits, routing, sending
from outbox.dispatch import Dispatcher, claim
from outbox.models import AttemptCount, Outbox, ProviderState
from outbox.providers import get_provider
from outbox.providers.base import Accepted, OutcomeUnknown, Rejected, Unavailable
from smsportal.instants import database_now
from smsportal.models import Notice
from tests.outbox.crowds import multiply
from tests.threads import at_once

REFUSES_US = Unavailable("The provider says that we have no credit.", code="provider_out_of_credit", refuses_us=True)
DOWN = Unavailable("Connection refused.", code="provider_unreachable")
LOCMEM = {"BACKEND": "outbox.providers.locmem.Provider"}


@pytest.fixture
def two_providers(settings):
    """Providers "first" and "second", in this order of preference."""
    settings.SMS_PROVIDERS = {"first": LOCMEM, "second": LOCMEM}
    get_provider.cache_clear()
    yield get_provider("first"), get_provider("second")
    get_provider.cache_clear()


def send(account, number=1, **more):
    return sending.send(account.user, recipient=f"+25471100{number:04}", text="x", **more)


def send_many(account, count, **more):
    ledger.top_up(account, Decimal(count), reason="many")
    return [send(account, number, **more) for number in range(count)]


def work():
    Dispatcher(concurrency=4).run(once=True)


def state(provider="locmem"):
    return ProviderState.objects.get(pk=provider)


def the_pause_is_over(provider="locmem"):
    ProviderState.objects.filter(pk=provider).update(retry_at=Now())
    Outbox.objects.filter(due_at__isnull=False).update(due_at=Now())


# --- pausing and trying again -----------------------------------------------------------------------------------------


def test_a_provider_that_refuses_us_is_paused_with_one_critical_notice_and_spends_no_retry(
    account, provider, caplog, django_capture_on_commit_callbacks
):
    entries = send_many(account, 20)
    provider.error = REFUSES_US

    with django_capture_on_commit_callbacks(execute=True):
        work()

    assert len(provider.messages) <= 4  # those that went at once; no other met it
    assert (state().circuit, state().reason_code) == ("open", "provider_out_of_credit")
    notice = Notice.objects.get()
    assert (notice.level, notice.about, notice.ended_at) == ("critical", "locmem", None)
    assert "no credit" in notice.text
    assert caplog.text.count("notice to the staff") == 1
    assert set(Outbox.objects.values_list("status", "charge_status", "retry_count")) == {("pending", "held", 0)}
    assert Outbox.objects.filter(pk__in=[entry.pk for entry in entries]).count() == 20

    provider.error = None
    for _ in range(2):  # the probe, then all the others
        the_pause_is_over()
        work()
    assert set(Outbox.objects.values_list("status", flat=True)) == {"sent"}
    assert (state().circuit, Notice.objects.get().ended_at is not None) == ("closed", True)


def test_one_refusal_between_good_answers_pauses_nobody(account, provider):
    circuits.record("locmem", [Accepted("1"), REFUSES_US, Accepted("2"), REFUSES_US])

    assert state().circuit == "closed"
    circuits.record("locmem", [REFUSES_US, REFUSES_US])
    assert state().circuit == "open"


@pytest.mark.parametrize(("failure", "needed"), [(DOWN, 5), (OutcomeUnknown("time-out"), 20)])
def test_a_provider_that_fails_again_and_again_is_paused(db, failure, needed):
    circuits.record("locmem", [Accepted("1"), *[failure] * (needed - 1)])
    assert state().circuit == "closed"

    circuits.record("locmem", [failure])

    assert state().circuit == "open"
    assert Notice.objects.get().level == "warning"


def test_a_message_of_its_own_fault_pauses_nobody(db):
    circuits.record("locmem", [Rejected("no such number")] * 100)

    assert state().circuit == "closed"


def test_one_message_at_a_time_tries_a_paused_provider_however_many_workers_there_are(
    transactional_db, account, provider
):
    send_many(account, 8)
    circuits.record("locmem", [REFUSES_US])
    assert at_once(4, lambda _: claim("locmem", 4)) == [[]] * 4

    the_pause_is_over()

    assert sum(map(len, at_once(4, lambda _: claim("locmem", 4)))) == 1
    assert state().circuit == "half_open"
    assert claim("locmem", 4) == []  # until it has answered, or its worker is dead


def test_each_pause_is_twice_as_long_as_the_one_before_up_to_a_limit(db):
    pauses = []
    for _ in range(12):
        circuits.record("locmem", [DOWN] * 5)
        pauses.append(state().retry_at - database_now())
        ProviderState.objects.update(circuit="half_open")

    seconds = [round(pause.total_seconds()) for pause in pauses]
    assert seconds == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60]


def test_a_provider_that_says_when_is_not_tried_before(db):
    circuits.record("locmem", [Unavailable("busy", retry_after=120)] * 5)

    assert timedelta(seconds=110) < state().retry_at - state().since <= timedelta(seconds=120)


def test_a_probe_that_is_answered_well_ends_the_pause_and_a_bad_one_does_not(account, provider):
    send_many(account, 3)
    circuits.record("locmem", [DOWN] * 5)
    provider.error = DOWN
    the_pause_is_over()
    work()
    assert (len(provider.messages), state().circuit) == (1, "open")

    provider.error = Rejected("no such number")  # of the message: the provider itself works
    the_pause_is_over()
    work()
    assert state().circuit == "closed"
    assert state().retry_at is None


def test_the_staff_stop_a_provider_and_start_it_again(account, provider):
    send_many(account, 3)
    circuits.stop("locmem")
    work()
    assert provider.messages == []
    circuits.record("locmem", [Accepted("late")])  # of a call that was under way
    assert state().circuit == "stopped"

    circuits.start("locmem")
    work()

    assert len(provider.messages) == 3
    assert state().circuit == "closed"


# --- what the others notice of it: nothing ----------------------------------------------------------------------------


def test_messages_move_to_the_next_provider_of_their_route_and_new_ones_come_back(account, two_providers):
    first, second = two_providers
    first.error = REFUSES_US
    send_many(account, 12)

    work()
    Outbox.objects.filter(due_at__isnull=False).update(due_at=Now())
    work()

    assert len(first.messages) + len(second.messages) - 12 <= 4  # only those that met the refusal went twice
    assert set(Outbox.objects.values_list("status", flat=True)) == {"sent"}

    first.error = None
    first.messages.clear()
    send(account, 50)
    ProviderState.objects.update(retry_at=Now())
    assert len(claim("first", 4)) == 1  # a new message tries it
    circuits.record("first", [Accepted("1")])
    send(account, 51)
    work()
    assert [message.recipient for message in first.messages] == ["+254711000051"]


def test_a_provider_that_hangs_keeps_nobody_elses_messages_waiting(transactional_db, account, two_providers, settings):
    settings.SMS_ROUTES = {"+2547": ["first"], "+2541": ["second"]}
    first, _ = two_providers
    ends = threading.Event()
    first.send = lambda message: ends.wait(30) and Accepted("late")
    send_many(account, 10)
    worker = Dispatcher(concurrency=2)
    thread = threading.Thread(target=_run, args=[worker])
    thread.start()
    try:
        _until(lambda: Outbox.objects.filter(due_at=None, status="pending").count() == 2)

        entry = sending.send(account.user, recipient="+254110000001", text="x")

        _until(lambda: Outbox.objects.get(pk=entry.pk).status == "sent")
        assert Outbox.objects.filter(status="sent").count() == 1
    finally:
        worker.stop()
        ends.set()
        thread.join(30)


def _run(worker):
    try:
        worker.run()
    finally:
        connection.close()


def _until(holds, seconds=20):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_provider_that_is_removed_from_the_settings_keeps_no_message(account, two_providers, settings):
    send_many(account, 3)
    settings.SMS_PROVIDERS = {"second": LOCMEM}

    assert routing.reclaim() == 3
    work()

    assert len(get_provider("second").messages) == 3


# --- rate -------------------------------------------------------------------------------------------------------------


def at_rate(settings, rate):
    settings.SMS_PROVIDERS = {"locmem": {**LOCMEM, "MESSAGES_PER_SECOND": rate}}


@pytest.mark.parametrize(("rate", "at_first"), [(1, 1), (0.5, 1), (10, 1), (50, 5), (200, 20)])
def test_all_workers_together_keep_to_the_rate(transactional_db, account, provider, settings, rate, at_first):
    at_rate(settings, rate)
    send_many(account, 30)
    ProviderState.objects.create(provider="locmem")

    assert sum(map(len, at_once(4, lambda _: claim("locmem", 30)))) <= at_first
    assert Outbox.objects.filter(attempt_count=1).count() >= 1


def test_no_second_holds_more_than_the_rate(account, provider, settings, monkeypatch):
    at_rate(settings, 50)
    send_many(account, 120)
    now = database_now()
    taken = []
    for number in range(40):  # two seconds
        monkeypatch.setattr(circuits, "database_now", lambda: now + number * timedelta(milliseconds=50))  # noqa: B023
        taken.append(len(claim("locmem", 64)))

    assert max(sum(taken[start : start + 20]) for start in range(20)) <= 50
    assert sum(taken) >= 90


# --- priority ---------------------------------------------------------------------------------------------------------


def test_urgent_messages_overtake_and_leave_a_fair_share(account, provider):
    normal = send_many(account, 4)
    urgent = send_many(account, 20, priority=Outbox.Priority.HIGH)

    taken = [claimed.message.reference for claimed in claim("locmem", 8)]

    assert taken == [str(entry.pk) for entry in [*urgent[:6], *normal[:2]]]


def test_of_a_thousand_urgent_and_a_hundred_normal_messages_neither_kind_waits_for_the_other(account, provider):
    ledger.top_up(account, Decimal(2000), reason="many")
    multiply(send(account, 1), 99)
    multiply(send(account, 2, priority=Outbox.Priority.HIGH), 999)

    taken = []
    while claimed := [one.message.recipient for one in claim("locmem", 64)]:
        taken.append(Counter(claimed))

    urgent, normal = ([batch[f"+25471100{number:04}"] for batch in taken] for number in (2, 1))
    assert (sum(urgent), sum(normal)) == (1000, 100)
    assert all(normal[:6])  # from the first on
    assert sum(normal[:7]) == 100  # a fourth of 64 each time: not at the end of the thousand
    assert min(urgent[:7]) == 48  # and no more than that


def test_an_urgent_message_is_in_the_next_claim_however_many_wait(account, provider):
    ledger.top_up(account, Decimal(2000), reason="many")
    multiply(send(account, 1), 999)
    assert len(claim("locmem", 64)) == 64
    urgent = send(account, 2, priority=Outbox.Priority.HIGH)

    assert claim("locmem", 2)[0].message.reference == str(urgent.pk)


def test_a_single_place_is_given_to_normal_messages_now_and_then(account, provider):
    send_many(account, 30, priority=Outbox.Priority.HIGH)
    waits = send_many(account, 1)[0]

    for _ in range(30):
        claim("locmem", 1)
        if Outbox.objects.get(pk=waits.pk).attempt_count:
            return

    pytest.fail("thirty urgent messages went first")  # by chance once in 5,600 runs


# --- counting ---------------------------------------------------------------------------------------------------------


def test_every_attempt_is_counted_by_its_outcome(account, provider):
    send_many(account, 3)
    work()
    provider.error = Rejected("no")
    send(account, 60)
    work()

    counts = dict(AttemptCount.objects.values_list("outcome", "attempts"))
    assert counts == {"accepted": 3, "rejected": 1}


# --- what its user sees -----------------------------------------------------------------------------------------------


def test_a_message_says_that_its_provider_is_paused_for_as_long_as_it_is(account, provider, api, client):
    entry = send(account)
    later = send(account, 2, scheduled_at=database_now() + timedelta(hours=1))
    circuits.record("locmem", [REFUSES_US])
    client.force_login(account.user)

    told = api.get(f"/api/sms/outbox/{entry.pk}").json()

    assert (told["status"], told["errorCode"]) == ("pending", "provider_unavailable")
    assert "temporarily unavailable" in told["errorDetails"]
    assert "temporarily unavailable" in client.get(f"/outbox/{entry.pk}/").content.decode()
    listed = {row["outboxId"]: row["errorCode"] for row in api.get("/api/sms/outbox").json()["results"]}
    assert listed == {str(entry.pk): "provider_unavailable", str(later.pk): None}

    circuits.record("locmem", [Accepted("1")])
    assert api.get(f"/api/sms/outbox/{entry.pk}").json()["errorCode"] is None


def test_the_operators_quarrel_with_his_provider_is_not_the_users_affair(account, provider, api, client):
    provider.error = REFUSES_US
    entry = send(account)
    work()
    client.force_login(account.user)

    told = api.get(f"/api/sms/outbox/{entry.pk}").content.decode()
    page = client.get(f"/outbox/{entry.pk}/").content.decode()

    assert "temporarily unavailable" in told
    assert "temporarily unavailable" in page
    assert "credit." not in told + page
    assert "no credit" in entry.attempts.get().error_details
