"""Once a day one of the workers audits, beside its work, and the staff are told what it finds."""

import threading
import time
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connections
from django.db.models.functions import Now

from billing.audit import Check
from billing.models import Account
from outbox import audit, daily_audit, sending
from outbox.dispatch import Dispatcher
from outbox.models import AuditRun
from smsportal.models import Notice
from tests.outbox.test_monitoring import figures
from tests.threads import at_once

STUCK_S = 60


def wait_until(holds):
    deadline = time.monotonic() + STUCK_S
    while not holds():
        assert time.monotonic() < deadline, "stuck"
        time.sleep(0.02)


def run_audit():
    run = daily_audit.begin()
    list(daily_audit.carry_out(run))
    return run


@pytest.fixture
def endless(monkeypatch):
    """An audit that comes to no end."""
    monkeypatch.setattr(audit, "CHECKS", [Check("slow", "{0}", "SELECT pg_sleep(3600)")])


@pytest.fixture
def always_time(monkeypatch):
    monkeypatch.setattr(daily_audit, "LOOK_S", 0.0)


@pytest.fixture
def dispatcher():
    """One at work in a thread; told to end and ended at the end of the test."""
    working = Dispatcher(concurrency=2)

    def work():
        try:
            working.run()
        finally:
            connections.close_all()

    working.thread = thread = threading.Thread(target=work)
    thread.start()
    yield working
    working.stop()
    thread.join(STUCK_S)


@pytest.mark.django_db(transaction=True)
def test_of_many_workers_one_audits():
    runs = at_once(8, lambda _: daily_audit.claim())

    assert [run for run in runs if run] == list(AuditRun.objects.all())
    assert AuditRun.objects.count() == 1


def test_it_is_made_again_after_a_day(db):
    assert daily_audit.claim() is not None
    AuditRun.objects.update(finished_at=Now() - timedelta(hours=23))
    assert daily_audit.claim() is None

    AuditRun.objects.update(finished_at=Now() - timedelta(hours=24))

    assert daily_audit.claim() is not None


def test_one_whose_worker_died_is_made_anew_when_its_lease_is_over(db):
    assert daily_audit.claim() is not None
    assert daily_audit.claim() is None

    AuditRun.objects.update(lease_expires_at=Now() - timedelta(seconds=1))

    assert daily_audit.claim() is not None


@pytest.mark.django_db(transaction=True)
def test_the_staff_are_told_what_is_broken_until_it_is_mended(account):
    Account.objects.filter(pk=account.pk).update(balance=11)
    first = run_audit()
    notice = Notice.objects.get(user=None)
    assert (first.findings, notice.level) == (1, "critical")
    assert f"account {account.pk}: balance 11.0000" in first.named
    assert "The audit found 1 broken" in notice.text
    assert "manage.py audit" in notice.text
    assert first.named in notice.text

    Account.objects.filter(pk=account.pk).update(balance=12)
    run_audit()
    notice.refresh_from_db()
    assert "balance 12.0000" in notice.text
    assert figures()["smsportal_audit_findings",] == 1

    Account.objects.filter(pk=account.pk).update(balance=10)
    last = run_audit()
    assert (last.findings, last.named, last.postings) == (0, "", 1)
    assert not Notice.objects.filter(ended_at=None).exists()


@pytest.mark.django_db(transaction=True)
def test_the_notice_names_no_more_than_the_first_few(account, monkeypatch):
    many = Check("many", "row {0}: broken", "SELECT generate_series(1, 1000)")
    monkeypatch.setattr(audit, "CHECKS", [many])

    run = daily_audit.begin()
    assert len(list(daily_audit.carry_out(run, audit.CHECKS))) == 1000

    assert (run.findings, run.named.splitlines()) == (1000, [f"row {number}: broken" for number in range(1, 6)])


@pytest.mark.django_db(transaction=True)
def test_how_old_the_last_audit_is_and_what_it_found_are_figures():
    assert figures()["smsportal_audit_age_seconds",] == float("inf")
    run = run_audit()
    AuditRun.objects.filter(pk=run.pk).update(finished_at=Now() - timedelta(hours=30))

    assert 108_000 <= figures()["smsportal_audit_age_seconds",] < 109_000
    assert figures()["smsportal_audit_findings",] == 0


@pytest.mark.django_db(transaction=True)
def test_a_dispatcher_audits(account, provider, always_time, dispatcher):
    wait_until(AuditRun.objects.filter(finished_at__isnull=False).exists)

    assert AuditRun.objects.get().findings == 0


@pytest.mark.django_db(transaction=True)
def test_a_long_audit_holds_up_no_message_and_ends_with_its_worker(account, provider, always_time, endless, dispatcher):
    wait_until(AuditRun.objects.exists)
    entry = sending.send(account.user, recipient="+254711000001", text="x")

    def is_sent():
        entry.refresh_from_db()
        return entry.status == "sent"

    wait_until(is_sent)
    assert AuditRun.objects.get().finished_at is None
    dispatcher.stop()
    dispatcher.thread.join(STUCK_S)

    assert not dispatcher.thread.is_alive()
    assert daily_audit.claim() is not None  # the next worker needs not wait
    account.refresh_from_db()
    assert account.balance == Decimal(9)
