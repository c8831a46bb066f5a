"""PostgreSQL refuses, for a moment or for longer: nothing is half done, nothing goes out, and callers are told."""

import json
import threading
from decimal import Decimal

import pytest
from django.db import connection, connections, transaction

from billing import ledger
from billing.models import Account
from outbox import audit, receipts, sending
from outbox.dispatch import Dispatcher
from outbox.exceptions import NotPaid
from outbox.models import Attempt, Outbox
from outbox.providers.base import DeliveryReceipt, Rejected
from smsportal.models import Bucket
from tests.factories import UserFactory
from tests.outbox.database_faults import DEADLOCK, DISK_FULL, READ_ONLY, SERIALIZATION_FAILURE, failing
from tests.threads import at_once

pytestmark = pytest.mark.django_db(transaction=True)
NUMBER = "+254711000001"
BODY = {"recipientPhoneNumber": NUMBER, "message": "x"}


def send(account, **options):
    return sending.send(account.user, recipient=NUMBER, text="x", **options)


def drain():
    Dispatcher(concurrency=2).run(once=True)


def assert_unavailable(response):
    assert (response.status_code, response["Content-Type"]) == (503, "application/problem+json")
    assert json.loads(response.content)["code"] == "unavailable"
    assert int(response["Retry-After"]) <= 2


def test_what_waits_for_others_and_what_never_ends_is_bounded(db):
    with connection.cursor() as cursor:
        for name in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"):
            cursor.execute("SELECT setting::integer FROM pg_settings WHERE name = %s", [name])
            assert 0 < cursor.fetchone()[0] <= 60_000, name


@pytest.mark.parametrize("table", ["outbox_outbox", "billing_account"])
@pytest.mark.parametrize("sqlstate", [DEADLOCK, SERIALIZATION_FAILURE])
def test_sending_resending_and_cancelling_outlast_conflicts(account, provider, sqlstate, table):
    provider.error = Rejected("no")
    with failing(table, sqlstate, times=3):
        entry = send(account)
    drain()
    entry.refresh_from_db()
    with failing(table, sqlstate, times=3):
        entry = sending.resend(entry)
    assert (entry.status, entry.retry_count) == ("pending", 1)
    with failing(table, sqlstate, times=3):
        entry = sending.cancel(entry)

    assert (entry.status, entry.error_code) == ("failed", "cancelled")
    assert Outbox.objects.get() == entry
    assert list(audit.broken()) == []


def test_what_is_done_again_after_a_conflict_takes_no_second_place_in_a_limit(account, provider, settings):
    settings.SMS_OTP_COOL_DOWN_S = 3600
    with failing("billing_account", DEADLOCK, times=3):
        entry = send(account, tags=["OTP"])

    sending.cancel(entry)
    Bucket.objects.all().delete()
    with failing("billing_account", DEADLOCK, times=3):
        assert sending.resend(entry).status == "pending"


def test_a_receipt_outlasts_conflicts(account, provider):
    entry = send(account)
    drain()

    with failing("outbox_outbox", DEADLOCK, times=3):
        assert receipts.apply("locmem", DeliveryReceipt("delivered", str(entry.pk))).effect == "applied"


def test_a_conflict_without_end_is_a_503_and_leaves_no_trace(api, account):
    with failing("outbox_outbox", DEADLOCK, times=4):
        assert_unavailable(api.post("/api/sms/send", BODY, headers={"Idempotency-Key": "k"}))
        assert not Outbox.objects.exists()

        assert api.post("/api/sms/send", BODY, headers={"Idempotency-Key": "k"}).status_code == 201
    account.refresh_from_db()
    assert account.held == 1


@pytest.mark.parametrize("sqlstate", [DISK_FULL, READ_ONLY])
@pytest.mark.parametrize("table", ["outbox_outbox", "billing_account", "billing_posting", "outbox_idempotencykey"])
def test_a_database_that_takes_no_more_is_a_503_and_the_same_request_works_afterwards(api, account, sqlstate, table):
    with failing(table, sqlstate, times=1):
        assert_unavailable(api.post("/api/sms/send", BODY, headers={"Idempotency-Key": "k"}))

        assert api.post("/api/sms/send", BODY, headers={"Idempotency-Key": "k"}).status_code == 201
    assert Outbox.objects.count() == 1
    account.refresh_from_db()
    assert account.held == 1


@pytest.mark.parametrize("sqlstate", [DISK_FULL, READ_ONLY])
def test_without_an_attempt_on_record_nothing_is_sent_and_the_dispatcher_goes_on_by_itself(
    account, provider, monkeypatch, sqlstate
):
    monkeypatch.setattr("outbox.dispatch.DATABASE_RETRY_S", 0.01)
    entry = send(account)

    with failing("outbox_attempt", sqlstate, times=5):
        drain()

    entry.refresh_from_db()
    assert entry.status == "sent"
    assert len(provider.messages) == Attempt.objects.count() == 1


def test_an_account_that_somebody_keeps_locked_is_a_503_and_others_are_served(api, account, client_of):
    other = ledger.account_of(UserFactory())
    ledger.top_up(other, Decimal(5), reason="x")
    locked, done = threading.Event(), threading.Event()

    def hold_lock():
        with transaction.atomic():
            Account.objects.select_for_update().get(pk=account.pk)
            locked.set()
            done.wait(60)
        connections.close_all()

    holder = threading.Thread(target=hold_lock)
    holder.start()
    assert locked.wait(60)
    try:
        assert_unavailable(api.post("/api/sms/send", BODY))
        assert client_of(other.user).post("/api/sms/send", BODY).status_code == 201
    finally:
        done.set()
        holder.join(60)

    assert not account.user.outbox.exists()
    assert api.post("/api/sms/send", BODY).status_code == 201


def test_top_ups_among_refusals_are_each_counted_once(account):
    sends, top_ups = 30, 10
    ledger.hold(account, Decimal(10), "all of it")

    def act(number):
        if number < top_ups:
            return ledger.top_up(account, Decimal(2), reason="more")
        return send(account)

    results = at_once(sends + top_ups, act)[top_ups:]

    accepted = sum(isinstance(result, Outbox) for result in results)
    assert accepted + sum(isinstance(result, NotPaid) for result in results) == sends
    account.refresh_from_db()
    assert (account.balance, account.held) == (Decimal(10 + 2 * top_ups), Decimal(10 + accepted))
    while account.available() > 0:  # what was refused was refused for want of money, not for a lost top-up
        send(account)
        account.refresh_from_db()
    assert account.postings.filter(kind="hold").count() == 1 + 2 * top_ups


@pytest.mark.django_db
def test_a_server_that_would_acknowledge_before_it_has_written_is_told_not_to():
    with connection.cursor() as cursor:
        cursor.execute("SHOW synchronous_commit")
        assert cursor.fetchone() == ("on",)
