"""The database goes and comes back under a dispatcher at work: what it knows is written then, or is unknown."""

import json
import signal
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection
from django.db.models.functions import Now

from outbox import audit, sending
from outbox.models import Attempt, Outbox, Worker
from smsportal.embedded_postgres import Cluster
from tests.dispatchers import cut_sessions, gateway, outage, process, wait_until
from tests.portal import running_portal


@pytest.fixture
def entries(account):
    return [sending.send(account.user, recipient=f"+25471100000{n}", text="x") for n in range(5)]


@pytest.mark.django_db(transaction=True)
def test_answers_that_came_meanwhile_are_written_when_the_database_is_back(entries, tmp_path: Path):
    with gateway() as server, process(tmp_path / "log", server.providers(timeout_s=60)) as worker:
        wait_until(lambda: len(server.journal) == 5)
        with outage():
            server.answers.set()
            wait_until(lambda: worker.log().count("database: OperationalError; trying again") >= 2)
            assert Attempt.objects.filter(outcome=None).count() == 5
        wait_until(lambda: Outbox.objects.filter(status="sent").count() == 5)
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0

    assert len(server.journal) == 5
    assert Attempt.objects.count() == 5
    assert list(audit.broken()) == []


@pytest.mark.django_db(transaction=True)
def test_answers_of_a_dispatcher_that_dies_meanwhile_are_unknown(entries, tmp_path: Path):
    with gateway() as server:
        with process(tmp_path / "log", server.providers(timeout_s=60)) as worker:
            wait_until(lambda: len(server.journal) == 5)
            with outage():
                server.answers.set()
                wait_until(lambda: "database: OperationalError; trying again" in worker.log())
                worker.signal(signal.SIGKILL)
                worker.ends()
        Attempt.objects.update(lease_expires_at=Now() - timedelta(seconds=1))
        with process(tmp_path / "next.log", server.providers(timeout_s=60)) as successor:
            wait_until(lambda: Outbox.objects.filter(outcome="unknown", charge_status="held").count() == 5)
            successor.signal(signal.SIGTERM)
            assert successor.ends() == 0

    assert len(server.journal) == 5
    assert list(audit.broken()) == []


@pytest.mark.django_db(transaction=True)
def test_nothing_leaves_while_the_database_can_only_be_read(entries, tmp_path: Path):
    read_only = f'ALTER DATABASE "{connection.settings_dict["NAME"]}" {{}} default_transaction_read_only'
    Outbox.objects.update(due_at=Now() + timedelta(hours=1))
    with gateway() as server, process(tmp_path / "log", server.providers(timeout_s=60)) as worker:
        server.answers.set()
        wait_until(Worker.objects.exists)
        with connection.cursor() as cursor:
            cursor.execute(read_only.format("SET") + " = on")
        try:
            cut_sessions()
            Outbox.objects.update(due_at=Now())  # our own session is older
            wait_until(lambda: worker.log().count("ReadOnlySqlTransaction") >= 2)
            assert server.journal == []
            assert not Attempt.objects.exists()
        finally:
            with connection.cursor() as cursor:
                cursor.execute(read_only.format("RESET"))
        cut_sessions()
        wait_until(lambda: Outbox.objects.filter(status="sent").count() == 5)
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0

    assert len(server.journal) == 5
    assert list(audit.broken()) == []


def test_a_server_is_stopped_and_started_again_under_the_whole_portal(tmp_path: Path):
    cluster = Cluster(tmp_path / "postgres", durable=False)
    cluster.start()
    try:
        with (
            gateway() as server,
            running_portal(
                tmp_path, cluster.url, SMS_PROVIDERS=server.providers(timeout_s=90), SMS_ROUTES="{}"
            ) as portal,
        ):
            sent = [
                portal.post("/api/sms/send", {"recipientPhoneNumber": f"+25471234560{n}", "message": "x"}).json()[
                    "outboxId"
                ]
                for n in range(5)
            ]
            wait_until(lambda: len(server.journal) == 5)
            cluster.stop()
            server.answers.set()
            wait_until(lambda: "; trying again" in (tmp_path / "portal.log").read_text())
            cluster.start()
            wait_until(lambda: {entry["status"] for entry in portal.log().values()} == {"sent"})
            assert portal.manage("audit").returncode == 0, json.dumps(portal.log())

        assert sorted(server.journal) == sorted(sent)
    finally:
        cluster.stop()
