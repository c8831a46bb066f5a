"""A dispatcher does not grow with the messages it has handed over."""

import json
import signal
from decimal import Decimal
from pathlib import Path

import pytest

from billing import ledger
from outbox import audit, sending
from outbox.models import AttemptCount, Outbox
from tests.dispatchers import process, wait_until
from tests.outbox.crowds import multiply

MESSAGES = 20_000
WARM = 4_000  # after so many everything is loaded, and buffers have their size
GROWTH_MIB = 25
SIMULATOR = json.dumps({"locmem": {"BACKEND": "outbox.providers.simulator.Provider"}})


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def handed_over() -> int:
    return sum(AttemptCount.objects.values_list("attempts", flat=True))


@pytest.mark.django_db(transaction=True)
def test_twenty_thousand_messages_leave_no_more_memory_in_use_than_a_few_thousand(account, tmp_path: Path):
    ledger.top_up(account, Decimal(MESSAGES), reason="for all")
    original = sending.send(account.user, recipient="+254711000007", text="x" * 150)
    multiply(original, MESSAGES - 1)
    with process(tmp_path / "log", SIMULATOR, concurrency=64, LOG_LEVEL="INFO") as worker:
        wait_until(lambda: handed_over() >= WARM, seconds=300)
        warm = resident_mib(worker.process.pid)
        wait_until(lambda: handed_over() == MESSAGES, seconds=600)
        at_the_end = resident_mib(worker.process.pid)
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0

    print(f"{warm:.0f} MiB after {WARM} messages, {at_the_end:.0f} MiB after {MESSAGES}")
    assert Outbox.objects.filter(status="sent").count() == MESSAGES
    assert at_the_end - warm < GROWTH_MIB
    assert list(audit.broken()) == []
