"""kill -9 of dispatchers at any point: nothing is sent twice, nothing is stuck, and the books stay right."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal

import pytest
from django.db import connection

from billing import ledger
from outbox import audit, receipts, sending
from outbox.models import Attempt, Outbox
from outbox.providers.base import DeliveryReceipt
from tests.hostile.running import NAME, Running, running_provider
from tests.portal import ROOT

SEED = int(os.environ.get("CHAOS_SEED", "0")) or random.randrange(1, 10**6)
MESSAGES = 800
KILLS = 15
TIMEOUT_S = 2


@pytest.fixture
def gateway(tmp_path) -> Iterator[Running]:
    """Takes every message into its journal first, and then lets the caller wait for the answer."""
    with running_provider(tmp_path / "journal", modes="slow/never", seed=SEED) as running:
        yield running


def dispatcher(gateway: Running, *words: str) -> subprocess.Popen[bytes]:
    """A worker process on the tests' database."""
    database = connection.settings_dict
    login = f"{database['USER']}:{database['PASSWORD']}@" if database["PASSWORD"] else f"{database['USER']}@"
    host = database["OPTIONS"].get("host") or database["HOST"]
    port = database["OPTIONS"].get("port") or database["PORT"] or 5432
    environment = os.environ | {
        "DATABASE_URL": f"postgresql://{login}/{database['NAME']}?host={host}&port={port}",
        "SMS_PROVIDERS": json.dumps(gateway.settings(timeout_s=TIMEOUT_S)),
    }
    command = [sys.executable, str(ROOT / "manage.py"), "dispatch", "--concurrency", "16", *words]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "something is stuck"
        time.sleep(0.01)


@pytest.mark.django_db(transaction=True)
def test_killed_dispatchers_send_nothing_twice_and_leave_nothing_stuck(account, gateway):
    print(f"CHAOS_SEED={SEED}")
    chance = random.Random(SEED)
    ledger.top_up(account, Decimal(MESSAGES), reason="for all")
    entries = [
        sending.send(account.user, recipient=f"+25471100{number:04}", text=f"Message {number}")
        for number in range(MESSAGES)
    ]

    for _ in range(KILLS):
        before, victim = len(gateway.journal()), dispatcher(gateway)
        wait_until(lambda before=before: len(gateway.journal()) > before)  # however long it takes to start
        time.sleep(chance.uniform(0, 0.3))
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    workers = [dispatcher(gateway) for _ in range(2)]
    wait_until(lambda: not Outbox.objects.filter(status="pending", outcome=None).exists())
    for worker in workers:
        worker.terminate()
        assert worker.wait(30) == 0

    # Nothing was handed over twice, and nothing that is not in the outbox.
    journal = Counter(line["reference"] for line in gateway.journal())
    assert max(journal.values()) == 1
    assert journal.keys() <= {str(entry.pk) for entry in entries}
    # What is sent was handed over; what was handed over is sent or known to be unknown.
    states = {
        str(pk): (status, outcome) for pk, status, outcome in Outbox.objects.values_list("id", "status", "outcome")
    }
    assert set(states.values()) <= {("sent", None), ("pending", "unknown")}
    assert {pk for pk, state in states.items() if state[0] == "sent"} <= journal.keys()
    unknown = {pk for pk, state in states.items() if state[1] == "unknown"}
    print(f"{len(journal)} handed over, {len(unknown)} of unknown outcome after {KILLS} kills")
    assert unknown, "no kill hit a call under way: the test has proved nothing"
    assert list(audit.broken()) == []

    # A receipt alone settles each of the unknown ones that the gateway has.
    for pk in unknown & journal.keys():
        assert receipts.apply(NAME, DeliveryReceipt("delivered", pk)).effect == "applied"
    assert Outbox.objects.filter(status="sent", charge_status="charged").count() == len(journal)
    account.refresh_from_db()
    assert account.balance == Decimal(10 + MESSAGES - len(journal))
    assert account.held == len(unknown - journal.keys())
    assert Attempt.objects.count() == MESSAGES
    assert list(audit.broken()) == []
