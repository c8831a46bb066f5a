"""A dispatcher that is asked to stop under load finishes what is under way, takes nothing new, and ends in time."""

import signal
import time
from decimal import Decimal
from pathlib import Path

import pytest

from billing import ledger
from outbox import audit, sending
from outbox.models import Attempt, Outbox, Worker
from tests.dispatchers import gateway, outage, process, wait_until

TIMEOUT_S = 3
HURRIED = "import django; django.setup(); from outbox import dispatch; dispatch.LEASE_MARGIN_S = 1"


@pytest.fixture
def forty(account):
    ledger.top_up(account, Decimal(40), reason="for all")
    return [sending.send(account.user, recipient=f"+25471100{n:04}", text="x") for n in range(40)]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "signals", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGTERM, signal.SIGTERM, signal.SIGINT]]
)
def test_calls_under_way_are_let_finish_and_the_rest_stays_in_the_queue(forty, signals, tmp_path: Path):
    with gateway() as server, process(tmp_path / "log", server.providers(timeout_s=60)) as worker:
        wait_until(lambda: len(server.journal) == 8)
        for number in signals:
            worker.signal(number)
            wait_until(lambda: "stopping: calls under way are let finish: 8" in worker.log())
        server.answers.set()
        assert worker.ends() == 0
        log = worker.log()

    assert "stopped: what waits stays in the queue; of unknown outcome: 0" in log
    assert "Traceback" not in log
    assert len(server.journal) == 8
    assert Outbox.objects.filter(status="sent", charge_status="charged").count() == 8
    assert Outbox.objects.filter(due_at__isnull=False, attempt_count=0).count() == 32
    assert Attempt.objects.count() == 8
    assert not Worker.objects.exists()
    assert list(audit.broken()) == []


@pytest.mark.django_db(transaction=True)
def test_a_gateway_that_does_not_answer_delays_the_end_by_no_more_than_its_time_limit(forty, tmp_path: Path):
    with gateway() as server, process(tmp_path / "log", server.providers(TIMEOUT_S)) as worker:
        wait_until(lambda: len(server.journal) == 8)
        asked = time.monotonic()
        worker.signal(signal.SIGTERM)
        assert worker.ends(TIMEOUT_S * 10) == 0
        print(f"ended {time.monotonic() - asked:.1f} s after SIGTERM, at a time limit of {TIMEOUT_S} s")

    assert len(server.journal) == 8
    assert Outbox.objects.filter(outcome="unknown", charge_status="held").count() == 8
    assert Outbox.objects.filter(due_at__isnull=False, attempt_count=0).count() == 32


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("messages", [0, 8])
def test_without_a_database_it_ends_when_no_outcome_can_be_written_in_time(account, messages, tmp_path: Path):
    for number in range(messages):
        sending.send(account.user, recipient=f"+25471100{number:04}", text="x")
    with gateway() as server:
        server.answers.clear()
        with process(tmp_path / "log", server.providers(TIMEOUT_S), first=HURRIED) as worker:
            wait_until(lambda: len(server.journal) == messages and Worker.objects.exists())
            with outage():
                wait_until(lambda: "database: " in worker.log())
                worker.signal(signal.SIGTERM)
                server.answers.set()
                assert worker.ends(60) == 0
                assert f"of unknown outcome: {messages}" in worker.log()
        with process(tmp_path / "next.log", server.providers(TIMEOUT_S)) as successor:
            wait_until(lambda: Outbox.objects.filter(outcome="unknown").count() == messages)
            wait_until(lambda: Worker.objects.count() == 2)
            successor.signal(signal.SIGTERM)
            assert successor.ends() == 0

    assert len(server.journal) == messages
    assert list(audit.broken()) == []
