"""One clock decides, the database's, in UTC: whatever workers' clocks and time zones say, nothing is early or twice."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from outbox import circuits, idempotency, outcomes, sending, workers
from outbox.dispatch import Dispatcher, claim
from outbox.models import Attempt, IdempotencyKey, Outbox, ProviderState, Worker
from outbox.providers.base import Unavailable
from smsportal.instants import database_now
from smsportal.models import Notice

HOUR = timedelta(hours=1)
REAL_TIME, REAL_NOW = time.time, timezone.now
# A clock of the database that stands where the test puts it. Django's Now() and our own SQL ask it by these names.
FAKE_CLOCK = """
    CREATE SCHEMA fake_clock;
    CREATE FUNCTION fake_clock.statement_timestamp() RETURNS timestamptz STABLE LANGUAGE sql
        AS $$ SELECT current_setting('fake_clock.now')::timestamptz $$;
    CREATE FUNCTION fake_clock.now() RETURNS timestamptz STABLE LANGUAGE sql
        AS $$ SELECT current_setting('fake_clock.now')::timestamptz $$;
    SET LOCAL search_path = fake_clock, pg_catalog, public;
"""


def send(account, **more):
    return sending.send(account.user, recipient="+254711000001", text="x", **more)


def work():
    Dispatcher(concurrency=4).run(once=True)


@pytest.fixture
def database_clock(account):
    """Puts the database's clock, as this test's session sees it, to a moment."""

    def put(moment):
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('fake_clock.now', %s, true)", [moment.isoformat()])

    put(REAL_NOW())
    with connection.cursor() as cursor:
        cursor.execute(FAKE_CLOCK)
    return put


@pytest.fixture(params=[-3600, 3600], ids=["slow by an hour", "fast by an hour"])
def wrong_clock(request, monkeypatch):
    """This process's own clock: seconds it is wrong by."""
    monkeypatch.setattr(time, "time", lambda: REAL_TIME() + request.param)
    monkeypatch.setattr(timezone, "now", lambda: REAL_NOW() + timedelta(seconds=request.param))
    return request.param


@pytest.fixture
def time_zone(monkeypatch):
    """Puts the process into a time zone, as a machine's settings would."""

    def put(name):
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield put
    monkeypatch.undo()
    time.tzset()


# --- workers whose clocks are wrong -----------------------------------------------------------------------------------


def test_a_worker_with_a_wrong_clock_sends_what_is_due_and_nothing_before(account, provider, wrong_clock):
    now, later = send(account), send(account, scheduled_at=database_now() + HOUR / 2)

    work()

    assert [message.reference for message in provider.messages] == [str(now.pk)]
    Outbox.objects.filter(pk=later.pk).update(due_at=Now())
    work()
    work()
    assert [message.reference for message in provider.messages] == [str(now.pk), str(later.pk)]


def test_a_worker_with_a_wrong_clock_ends_nothing_before_its_time(account, provider, wrong_clock):
    waits, claimed, unknown = (send(account, validity_minutes=30) for _ in range(3))
    claim("locmem", 10)
    Outbox.objects.filter(pk=waits.pk).update(due_at=Now() + HOUR / 4)
    Attempt.objects.filter(outbox=waits).delete()
    attempt = unknown.attempts.get()
    outcomes.settle([(attempt.pk, outcomes.OutcomeUnknown("time-out"))])
    request = idempotency.Request(account.user, "f" * 64, key="k")
    request.remember(claimed)
    Outbox.objects.filter(pk=unknown.pk).update(last_attempt_at=Now() - 71.5 * HOUR)
    IdempotencyKey.objects.update(created_at=Now() - idempotency.KEPT_FOR + HOUR / 2)

    ended = [outcomes.end_leases(), outcomes.expire(), outcomes.end_unknown(), idempotency.purge()]
    assert ended == [0, 0, 0, 0]

    # Half an hour later all of it is over.
    Attempt.objects.filter(outcome=None).update(lease_expires_at=Now())
    Outbox.objects.update(expires_at=F("expires_at") - HOUR / 2, last_attempt_at=F("last_attempt_at") - HOUR / 2)
    IdempotencyKey.objects.update(created_at=F("created_at") - HOUR / 2)
    ended = [outcomes.end_leases(), outcomes.expire(), outcomes.end_unknown(), idempotency.purge()]
    assert ended == [1, 1, 1, 1]


def test_a_worker_with_a_wrong_clock_pauses_as_long_as_it_was_asked_to(account, provider, wrong_clock):
    send(account)
    provider.error = Unavailable("busy", retry_after=100)
    work()

    in_a_while = (Now() + timedelta(seconds=90), Now() + timedelta(seconds=130))
    assert Outbox.objects.filter(due_at__range=in_a_while).exists()
    circuits.record("locmem", [provider.error] * 5)
    assert ProviderState.objects.filter(retry_at__range=in_a_while).exists()


def test_a_worker_with_a_wrong_clock_is_seen_to_live(db, wrong_clock):
    workers.Heartbeat().beat(0)

    assert workers.alive().count() == 1


# --- and the staff learn of it ----------------------------------------------------------------------------------------


def open_notices():
    return list(Notice.objects.filter(ended_at=None).values_list("kind", "level"))


def beat(heartbeat):
    heartbeat._beat_at = 0
    heartbeat.beat(0)


def test_the_staff_are_told_of_a_wrong_clock_until_it_is_right(db, wrong_clock, monkeypatch):
    heartbeat = workers.Heartbeat()
    beat(heartbeat)
    beat(heartbeat)

    assert open_notices() == [("clock", "warning")]
    notice = Notice.objects.get()
    assert f"{abs(wrong_clock)} s {'fast' if wrong_clock > 0 else 'slow'}" in notice.text
    assert notice.about in notice.text

    monkeypatch.setattr(time, "time", REAL_TIME)
    beat(heartbeat)
    assert open_notices() == []


@pytest.mark.parametrize(("wrong_by", "told"), [(0, 0), (25, 0), (-25, 0), (35, 1), (-35, 1)])
def test_half_a_minute_is_let_pass(db, monkeypatch, wrong_by, told):
    monkeypatch.setattr(time, "time", lambda: REAL_TIME() + wrong_by)

    beat(workers.Heartbeat())

    assert len(open_notices()) == told


def test_a_notice_of_a_wrong_clock_goes_with_the_last_dispatcher_of_its_machine(db, wrong_clock):
    first, second = workers.Heartbeat(), workers.Heartbeat()
    beat(first)
    beat(second)

    first.end()
    assert len(open_notices()) == 1
    second.end()
    assert open_notices() == []


def test_a_machine_that_is_gone_for_a_day_leaves_no_notice(db, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: REAL_TIME() - 3600)
    monkeypatch.setattr("socket.gethostname", lambda: "gone")
    beat(workers.Heartbeat())
    Worker.objects.update(beat_at=Now() - workers.REMEMBERED - HOUR)
    monkeypatch.setattr(time, "time", REAL_TIME)
    monkeypatch.setattr("socket.gethostname", lambda: "here")

    beat(workers.Heartbeat())

    assert open_notices() == []


# --- time zones and their changes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "change"),
    [
        ("Europe/Berlin", datetime(2026, 10, 25, 1, tzinfo=UTC)),  # 03:00 becomes 02:00
        ("Europe/Berlin", datetime(2027, 3, 28, 1, tzinfo=UTC)),  # 02:00 becomes 03:00
        ("America/New_York", datetime(2026, 11, 1, 6, tzinfo=UTC)),
        ("America/New_York", datetime(2027, 3, 14, 7, tzinfo=UTC)),
    ],
)
def test_messages_go_out_at_their_instant_across_a_change_of_the_clocks(
    account, provider, api, database_clock, time_zone, zone, change
):
    time_zone(zone)
    database_clock(change - 4 * HOUR)
    step = timedelta(minutes=30)
    instants = [change + number * step for number in range(-5, 6)]
    asked_for = {}
    for number, instant in enumerate(instants[:-2]):  # written with one offset or the other: what counts is the instant
        offset = timedelta(hours=number % 3 - 5)
        text = instant.astimezone(timezone.get_fixed_timezone(offset)).isoformat()
        answer = api.post(
            "/api/sms/send",
            {"recipientPhoneNumber": "+254711000001", "message": "x", "scheduleTimestamp": text},
        ).json()
        assert answer["scheduledAt"] == f"{instant:%Y-%m-%dT%H:%M:%SZ}"
        asked_for[answer["outboxId"]] = instant

    released: dict[str, datetime] = {}
    for instant in instants:
        for moment in (instant - timedelta(microseconds=1), instant):
            database_clock(moment)
            work()
            released |= {
                message.reference: moment for message in provider.messages if message.reference not in released
            }

    assert released == asked_for
    assert len(provider.messages) == len(asked_for)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Kathmandu", "America/St_Johns"])
def test_a_wait_is_as_long_across_a_change_of_the_clocks(account, provider, database_clock, zone, time_zone):
    database_clock(datetime(2026, 10, 24, 20, tzinfo=UTC))
    time_zone(zone)
    entry = send(account, validity_minutes=24 * 60)

    (claimed,) = claim("locmem", 1)
    attempt = Attempt.objects.get()
    outcomes.settle([(claimed.attempt_id, Unavailable("busy", retry_after=900))])

    entry.refresh_from_db()
    assert entry.expires_at == datetime(2026, 10, 25, 20, tzinfo=UTC)
    assert attempt.lease_expires_at == datetime(2026, 10, 24, 20, 0, 25, tzinfo=UTC)
    assert timedelta(minutes=15) <= entry.due_at - database_now() <= timedelta(minutes=19)


@pytest.mark.django_db(transaction=True)
def test_sessions_at_the_database_are_in_utc_whatever_it_and_the_machine_are_set_to(monkeypatch):
    database = connection.ops.quote_name(connection.settings_dict["NAME"])
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {database} SET TimeZone = 'America/New_York'")
    try:
        monkeypatch.setenv("PGTZ", "Europe/Berlin")  # libpq's own
        connection.close()
        with connection.cursor() as cursor:
            cursor.execute("SHOW TimeZone")
            assert cursor.fetchone() == ("UTC",)
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER DATABASE {database} RESET TimeZone")


# --- the end of a message's time --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "sent"), [(-timedelta(microseconds=1), True), (timedelta(0), False), (timedelta(microseconds=1), False)]
)
def test_at_its_last_moment_a_message_is_sent_or_expires_and_never_both(account, provider, database_clock, after, sent):
    entry = send(account, validity_minutes=1)
    database_clock(entry.expires_at + after)

    work()
    work()

    entry.refresh_from_db()
    assert (entry.status, entry.error_code) == (("sent", None) if sent else ("failed", "expired"))
    assert len(provider.messages) == sent
