"""A provider that takes messages and does not answer: neither the site nor the database waits with it."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import psycopg
import pytest

from tests.faults.conftest import STUCK_S

BODY = {"recipientPhoneNumber": "+254711000099", "message": "x"}


@pytest.fixture
def silent_provider(running):
    """A dispatcher's provider that accepts connections and says nothing; counts the calls in its hands."""
    calls = []
    with socket.create_server(("127.0.0.1", 0), backlog=200) as server:

        def accept():
            while True:
                try:
                    calls.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        options = {
            "url": f"http://127.0.0.1:{server.getsockname()[1]}/",
            "timeout_s": STUCK_S,
            "json": {"to": "{recipient}", "text": "{text}"},
            "accepted": {"status": [200]},
        }
        provider = {"BACKEND": "outbox.providers.http.Provider", "OPTIONS": options}
        running.environment["SMS_PROVIDERS"] = json.dumps({"simulator": provider})
        worker = running.dispatcher()
        yield calls
        server.shutdown(socket.SHUT_RDWR)
    worker.kill()
    worker.wait(STUCK_S)
    for call in calls:
        call.close()


def test_a_provider_that_hangs_holds_no_request_and_no_transaction(running, silent_provider):
    seconds = []
    with psycopg.connect(running.cluster.url, autocommit=True) as database:
        for _ in range(100):
            asked_at = time.monotonic()
            assert running.post(BODY).status_code == 201
            seconds.append(time.monotonic() - asked_at)
        deadline = time.monotonic() + STUCK_S
        while len(silent_provider) < 60:  # of the 64 calls that a dispatcher makes at once
            assert time.monotonic() < deadline, "the messages do not get to the provider"
            time.sleep(0.05)
        time.sleep(1)
        in_transaction = [
            database.execute("SELECT COUNT(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'").fetchone()[0]
            for _ in range(50)
        ]
    seconds.sort()
    print(
        f"send: median {seconds[50] * 1000:.0f} ms, 95 % within {seconds[95] * 1000:.0f} ms, while the provider hangs"
    )

    assert running.post(BODY).status_code == 201
    assert min(in_transaction) == 0, "somebody holds a transaction all the time"


def test_callers_who_wait_for_an_outcome_leave_room_for_the_others(running, silent_provider):
    with ThreadPoolExecutor(60) as pool:
        waiting = [pool.submit(running.post, BODY, Prefer="wait=30") for _ in range(60)]
        wait(waiting, timeout=STUCK_S, return_when="FIRST_COMPLETED")  # who finds no room is answered at once

        assert [running.post(BODY).status_code for _ in range(20)] == [201] * 20

        assert not all(answer.done() for answer in waiting), "nobody waited meanwhile"
        running.kill()
