"""What a load balancer and a monitoring system are told."""

from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db import OperationalError, connection
from django.db.models.functions import Now
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

from billing.models import Account
from outbox import circuits, monitoring, sending, workers
from outbox.dispatch import Dispatcher
from outbox.models import Outbox
from outbox.providers.base import OutcomeUnknown, Rejected, Unavailable


def figures(**headers):
    response = Client(headers=headers).get("/metrics")
    assert response.status_code == 200
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.content.decode())
        for sample in family.samples
    }


def send(account, number, **more):
    return sending.send(account.user, recipient=f"+25471100000{number}", text="x", **more)


def work():
    Dispatcher(concurrency=1).run(once=True)


def test_an_installation_at_rest_has_figures_already(db):
    found = figures()

    assert found["smsportal_unknown_messages",] == 0
    assert found["smsportal_dispatchers",] == 0
    assert found["smsportal_notices", "critical"] == 0


def test_queue_attempts_unknown_outcomes_providers_and_dispatchers_are_told(account, provider, settings):
    send(account, 1)
    work()
    provider.error = Rejected("no")
    send(account, 2)
    work()
    provider.error = OutcomeUnknown("time-out")
    send(account, 3)
    work()
    Outbox.objects.filter(outcome="unknown").update(last_attempt_at=Now() - timedelta(hours=1))
    send(account, 4)
    Outbox.objects.filter(due_at__isnull=False).update(due_at=Now() - timedelta(seconds=90))
    send(
        account,
        5,
        priority=Outbox.Priority.HIGH,
        scheduled_at=account.postings.get(kind="top_up").created_at + timedelta(hours=1),
    )
    circuits.record("other", [Unavailable("no credit", refuses_us=True)])
    workers.Heartbeat().beat(7)

    found = figures()

    assert found["smsportal_queue_messages", "normal", "locmem", "due"] == 1
    assert found["smsportal_queue_messages", "high", "locmem", "later"] == 1
    assert 90 <= found["smsportal_queue_oldest_due_seconds", "locmem"] < 600
    assert found["smsportal_attempts_total", "accepted", "locmem"] == 1
    assert found["smsportal_attempts_total", "rejected", "locmem"] == 1
    assert found["smsportal_attempts_total", "unknown", "locmem"] == 1
    assert found["smsportal_unknown_messages",] == 1
    assert 3600 <= found["smsportal_unknown_oldest_seconds",] < 4200
    assert (found["smsportal_provider_works", "locmem"], found["smsportal_provider_works", "other"]) == (1, 0)
    assert found["smsportal_dispatchers",] == 1
    assert [value for (name, *_), value in found.items() if name == "smsportal_dispatcher_calls"] == [7]
    assert found["smsportal_ledger_drift", "KES"] == 0
    assert found["smsportal_notices", "critical"] == 1


def test_a_balance_that_was_tampered_with_shows_at_once(account):
    Account.objects.update(balance=11)

    assert figures()["smsportal_ledger_drift", "KES"] == 1


def test_no_number_text_or_user_is_among_the_figures(account, provider):
    send(account, 1)
    provider.error = Rejected("+254711000001 said no")
    work()

    text = Client().get("/metrics").content.decode()

    assert "+2547" not in text
    assert "254711" not in text
    assert account.user.username not in text


@pytest.mark.parametrize("header", [None, "Bearer wrong", "secret", "Bearer \xe4"])
def test_with_a_token_only_those_who_have_it_get_figures(db, settings, header):
    settings.METRICS_TOKEN = "secret"

    assert Client(headers={"Authorization": header} if header else {}).get("/metrics").status_code == 401
    assert figures(Authorization="Bearer secret")


def test_the_figures_of_the_queue_are_read_from_indexes(account):
    entry = send(account, 1)
    rows = [
        Outbox(
            **{field.attname: getattr(entry, field.attname) for field in Outbox._meta.fields}
            | {"id": None, "message_id": str(number), "due_at": None, "status": "sent", "charge_status": "charged"}
        )
        for number in range(3000)
    ]
    for row in rows:
        row.id = Outbox._meta.pk.get_default()
    Outbox.objects.bulk_create(rows)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE outbox_outbox")
        for condition in ("due_at IS NOT NULL", "due_at <= now()", "outcome = 'unknown'"):
            cursor.execute(f"EXPLAIN SELECT COUNT(*) FROM outbox_outbox WHERE {condition}")
            assert "Seq Scan" not in str(cursor.fetchall())


def test_ready_when_the_database_answers_and_is_migrated(db):
    workers.Heartbeat().beat(0)

    response = Client().get("/readyz")

    assert (response.status_code, response.json()) == (200, {"ready": True, "dispatchers": 1})


def test_not_ready_without_a_database(db, monkeypatch):
    def gone():
        raise OperationalError("gone")

    monkeypatch.setattr(workers, "alive", gone)

    for path in ("/readyz", "/metrics"):
        response = Client().get(path)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
    assert Client().get("/healthz").status_code == 200


def test_not_ready_before_the_migrations(transactional_db):
    monitoring._require_migrations.cache_clear()
    call_command("migrate", "smsportal", "0001", verbosity=0)
    try:
        response = Client().get("/readyz")
        assert (response.status_code, response.json()["ready"]) == (503, False)
        assert "migrate" in response.json()["reason"]
    finally:
        call_command("migrate", verbosity=0)
    assert Client().get("/readyz").status_code == 200
