"""A database that is full, locked or slow: nothing leaves that is not written first, and a call holds nothing of it."""

import contextlib
import threading
from datetime import timedelta

import pytest
from django.db import connection, connections, transaction

from billing import ledger
from billing.models import Account, Posting
from outbox import audit, sending
from outbox import dispatch as dispatching
from outbox.dispatch import Dispatcher
from outbox.models import Attempt, Outbox, ProviderState
from outbox.providers import get_provider
from outbox.providers.base import Accepted, DeliveryReceipt
from tests.dispatchers import at_work, wait_until
from tests.factories import UserFactory
from tests.outbox.attempts import hand_over

pytestmark = pytest.mark.django_db(transaction=True)
LOCMEM = {"BACKEND": "outbox.providers.locmem.Provider"}


def send(account, recipient="+254711000001", **more):
    return sending.send(account.user, recipient=recipient, text="x", **more)


def is_sent(entry):
    return Outbox.objects.get(pk=entry.pk).status == "sent"


def execute(sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    for pause in ("PROVIDER_RETRY_S", "LOCKED_RETRY_S", "DATABASE_RETRY_S"):
        monkeypatch.setattr(dispatching, pause, 0.05)


@pytest.fixture
def full_disk():
    """No table grows any more that attempts are written to."""
    execute("""
        CREATE FUNCTION disk_is_full() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$;
        CREATE TRIGGER disk_is_full BEFORE INSERT ON outbox_attempt EXECUTE FUNCTION disk_is_full();
    """)
    yield lambda: execute("DROP TRIGGER disk_is_full ON outbox_attempt")
    execute("DROP FUNCTION disk_is_full CASCADE")


@pytest.fixture
def locked():
    """Locks the rows of a queryset, in another session, until the function it returns is called."""
    undo = []

    def lock(rows):
        held, over = threading.Event(), threading.Event()

        def hold():
            with transaction.atomic():
                list(rows.select_for_update())
                held.set()
                over.wait(60)
            connections.close_all()

        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(30)
        undo.extend([over.set, thread.join])
        return over.set

    yield lock
    for end in undo:
        end()


def test_nothing_leaves_while_the_disk_is_full_and_all_does_afterwards(account, provider, full_disk, caplog):
    entry = send(account)
    with at_work(Dispatcher(concurrency=2)):
        wait_until(lambda: caplog.text.count("DiskFull") >= 2)
        assert provider.messages == []
        assert (Outbox.objects.get().attempt_count, Attempt.objects.count()) == (0, 0)
        full_disk()
        wait_until(lambda: is_sent(entry))

    assert len(provider.messages) == 1
    assert list(audit.broken()) == []


def test_a_call_holds_no_lock_and_no_transaction(account, provider, monkeypatch):
    entry = send(account)
    calling, go_on = threading.Event(), threading.Event()

    def slow(message):
        calling.set()
        assert go_on.wait(60)
        return Accepted("p1")

    def transactions_since_before_the_call():
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND xact_start <= (SELECT started_at FROM outbox_attempt)"
            )
            return cursor.fetchone()[0]

    monkeypatch.setattr(provider, "send", slow)
    holds = Posting.objects.filter(kind="hold")
    with at_work(Dispatcher(concurrency=1)), contextlib.ExitStack() as at_last:
        at_last.callback(go_on.set)
        assert calling.wait(30)
        with transaction.atomic():
            for rows in (Outbox.objects, Attempt.objects, Account.objects, holds):
                assert rows.select_for_update(nowait=True).get() is not None
        wait_until(lambda: not transactions_since_before_the_call())
        go_on.set()
        wait_until(lambda: is_sent(entry))


def test_a_locked_provider_keeps_no_other_waiting(account, settings, locked):
    settings.SMS_PROVIDERS = {"first": {**LOCMEM, "MESSAGES_PER_SECOND": 100}, "second": LOCMEM}
    settings.SMS_ROUTES = {"+254722": ["first"], "default": ["second"]}
    get_provider.cache_clear()
    ProviderState.objects.create(provider="first")
    unlock = locked(ProviderState.objects.filter(pk="first"))
    waits, goes = send(account, "+254722000001"), send(account)

    with at_work(Dispatcher(concurrency=2)):
        wait_until(lambda: is_sent(goes))
        assert not is_sent(waits)
        unlock()
        wait_until(lambda: is_sent(waits))
    get_provider.cache_clear()


def test_a_receipt_for_a_locked_message_waits_and_lets_the_others_by(account, provider, locked, monkeypatch):
    other = ledger.account_of(UserFactory())
    ledger.top_up(other, 5, reason="x")
    stuck, innocent = send(account), send(other, "+254711000099")
    for entry in (stuck, innocent):
        hand_over(entry)
    unlock = locked(Outbox.objects.filter(pk=stuck.pk))
    batches = iter([[DeliveryReceipt("delivered", str(stuck.pk)), DeliveryReceipt("delivered", str(innocent.pk))]])
    monkeypatch.setattr(provider, "collect_receipts", lambda: next(batches, []))

    with at_work(Dispatcher(concurrency=2)):
        wait_until(lambda: is_sent(innocent))
        assert not is_sent(stuck)
        unlock()
        wait_until(lambda: is_sent(stuck))


def test_an_expired_message_of_a_locked_account_keeps_no_sweep_from_its_work(account, provider, locked):
    other = ledger.account_of(UserFactory())
    ledger.top_up(other, 5, reason="x")
    stuck, innocent = send(account), send(other, "+254711000099")
    later = [entry.expires_at - timedelta(days=2) for entry in (stuck, innocent)]
    Outbox.objects.update(expires_at=min(later))
    unlock = locked(Account.objects.filter(pk=account.pk))

    with at_work(Dispatcher(concurrency=2)):
        wait_until(lambda: Outbox.objects.get(pk=innocent.pk).error_code == "expired")
        assert Outbox.objects.get(pk=stuck.pk).status == "pending"
        unlock()
        wait_until(lambda: Outbox.objects.get(pk=stuck.pk).error_code == "expired")

    assert list(audit.broken()) == []
