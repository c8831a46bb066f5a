"""PostgreSQL is stopped in the middle of a burst, and comes back: 503 meanwhile, nothing lost, nothing doubled."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import psycopg
import requests

from tests.faults.conftest import STUCK_S

CLIENTS = 40
AWAY_S = 4


@dataclass
class Burst:
    """Clients that send, each message until it is accepted."""

    promised: dict[str, str] = field(default_factory=dict)  # outboxId by key
    refusals: list[tuple[requests.Response, float]] = field(default_factory=list)  # with its seconds
    stop: threading.Event = field(default_factory=threading.Event)

    def client(self, running, number):
        count = 0
        while not self.stop.is_set():
            key, count = f"{number}-{count}", count + 1
            while key not in self.promised:
                asked_at = time.monotonic()
                body = {"recipientPhoneNumber": "+254711000099", "message": key}
                answer = running.post(body, **{"Idempotency-Key": key})
                if answer.status_code in (200, 201):
                    self.promised[key] = answer.json()["outboxId"]
                else:
                    self.refusals.append((answer, time.monotonic() - asked_at))
                    time.sleep(0.2)


def test_postgres_stopped_in_a_burst_costs_no_message_and_no_patience(running):
    burst = Burst()
    worker = running.dispatcher()
    try:
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(burst.client, running, number) for number in range(CLIENTS)]
            try:
                time.sleep(2)
                running.cluster.crash()
                accepted_before = len(burst.promised)
                time.sleep(AWAY_S)
                healthy = requests.get(f"http://127.0.0.1:{running.port}/healthz", timeout=STUCK_S)
                ready = requests.get(f"http://127.0.0.1:{running.port}/readyz", timeout=STUCK_S)
                running.cluster.start()
                time.sleep(2)
            finally:
                burst.stop.set()
            for finished in clients:
                finished.result(STUCK_S)  # by itself, the site accepts what it refused
    finally:
        worker.terminate()
        assert worker.wait(STUCK_S) == 0

    seconds = sorted(seconds for _, seconds in burst.refusals)
    print(f"{len(burst.promised)} accepted, {accepted_before} of them before; {len(seconds)} refused within", end=" ")
    print(f"{seconds[len(seconds) // 2] * 1000:.0f} ms (median), {seconds[-1] * 1000:.0f} ms at most")
    assert 0 < accepted_before < len(burst.promised)
    assert len(seconds) >= CLIENTS
    assert (healthy.status_code, ready.status_code) == (200, 503)
    for answer, _ in burst.refusals:
        assert (answer.status_code, answer.headers["Content-Type"]) == (503, "application/problem+json"), answer.text
        assert int(answer.headers["Retry-After"]) <= 2
        assert answer.json()["code"] == "unavailable"

    running.manage("dispatch", "--once")
    with psycopg.connect(running.cluster.url) as database:
        kept = database.execute("SELECT text, id::text FROM outbox_outbox").fetchall()
        ((unsettled,),) = database.execute("SELECT COUNT(*) FROM outbox_outbox WHERE due_at IS NOT NULL").fetchall()
        ((twice,),) = database.execute("SELECT COUNT(*) FROM outbox_attempt WHERE number > 1").fetchall()
    assert sorted(kept) == sorted(burst.promised.items())
    assert (unsettled, twice) == (0, 0)
    assert "the books are right" in running.manage("audit")


def test_a_database_that_is_only_to_be_read_is_a_503_and_sends_nothing(running):
    body = {"recipientPhoneNumber": "+254711000099", "message": "x"}
    before = running.post(body).json()["outboxId"]
    with psycopg.connect(running.cluster.url, autocommit=True) as staff:
        staff.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        staff.execute("SELECT pg_reload_conf()")
    deadline = time.monotonic() + STUCK_S
    while running.post(body).status_code == 201:  # until each process has read it
        assert time.monotonic() < deadline
    worker = running.dispatcher()
    try:
        time.sleep(3)
        refused = running.post(body)
        untouched = running.entry(before)
        assert worker.poll() is None
        with psycopg.connect(running.cluster.url, autocommit=True) as staff:
            staff.execute("SET default_transaction_read_only = off")
            staff.execute("ALTER SYSTEM RESET default_transaction_read_only")
            staff.execute("SELECT pg_reload_conf()")
        while running.entry(before)["status"] != "sent":
            assert time.monotonic() < deadline, "the dispatcher did not go on by itself"
            time.sleep(0.1)
    finally:
        worker.terminate()
        worker.wait(STUCK_S)

    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
    assert (untouched["status"], untouched["attempts"]) == ("pending", [])
    assert running.post(body).status_code == 201
    assert "the books are right" in running.manage("audit")
