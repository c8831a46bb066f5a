"""kill -9 of the site: what was answered is there, what was not answered is asked for again, and neither is doubled."""

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psycopg
import requests

from tests.faults.conftest import STUCK_S

BODY = {"recipientPhoneNumber": "+254711000099", "message": "Your code is 4321"}
KILLS = 12


def wait_until(running, question):
    """Ask the database itself until the answer is yes."""
    deadline = time.monotonic() + STUCK_S
    with psycopg.connect(running.cluster.url, autocommit=True) as database:
        while not database.execute(question).fetchone()[0]:
            assert time.monotonic() < deadline, f"never true: {question}"
            time.sleep(0.01)


def rows(running, table):
    with psycopg.connect(running.cluster.url) as database:
        return database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]


def killed_while(running, question, **headers):
    """Kill the site as soon as it is so, with a request under way that gets no answer."""
    answers = []

    def ask():
        try:
            answers.append(running.post(BODY, **headers))
        except requests.ConnectionError:
            answers.append(None)

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(running, question)
    running.kill()
    asking.join(STUCK_S)
    assert answers == [None]


def test_killed_between_commit_and_answer_the_same_request_finds_what_it_made(running):
    key = {"Idempotency-Key": "order-1"}
    # No dispatcher runs: the answer waits, and the message is committed.
    killed_while(running, "SELECT COUNT(*) = 1 FROM outbox_outbox", Prefer="wait=30", **key)
    with psycopg.connect(running.cluster.url) as database:
        made = str(database.execute("SELECT id FROM outbox_outbox").fetchone()[0])
    running.start()

    again, other = running.post(BODY, **key), running.post(BODY | {"message": "Another"}, **key)

    assert (again.status_code, again.json()["outboxId"]) == (200, made)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    running.manage("dispatch", "--once")
    entry = running.entry(made)
    assert (entry["status"], len(entry["attempts"])) == ("sent", 1)
    assert [line["kind"] for line in entry["ledger"]] == ["hold", "capture"]
    running.kill()
    running.start()
    assert running.post(BODY, **key).json()["status"] == "sent"
    assert rows(running, "outbox_outbox") == 1


def test_killed_before_the_commit_nothing_exists_and_the_same_request_makes_it(running):
    key = {"Idempotency-Key": "order-1"}
    waits_for_a_lock = "SELECT COUNT(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    running.kill()
    running.environment["DATABASE_URL"] += "&options=-c%20lock_timeout%3D120s"  # no race between the kill and a 503
    running.start()
    with psycopg.connect(running.cluster.url) as staff:
        staff.execute("SELECT * FROM billing_account FOR UPDATE")
        killed_while(running, waits_for_a_lock, **key)
    wait_until(running, "SELECT COUNT(*) = 0 FROM pg_stat_activity WHERE state LIKE '%transaction%'")
    assert rows(running, "outbox_outbox") == rows(running, "outbox_idempotencykey") == 0
    running.start()

    assert running.post(BODY, **key).status_code == 201
    assert "the books are right" in running.manage("audit")


def test_of_forty_racing_requests_with_one_key_one_is_sent(running):
    stranger = running.manage("create_api_key", "admin", "--name", "test").split()[-1]
    running.manage("top_up", "admin", "10", "--reason", "test")
    key, at_once = {"Idempotency-Key": "order-1"}, threading.Barrier(42)

    def ask(number):
        at_once.wait(STUCK_S)
        if number == 40:
            return running.post(BODY, key=stranger, **key)
        return running.post(BODY | ({"message": "Another"} if number == 41 else {}), **key)

    with ThreadPoolExecutor(42) as pool:
        *equal, strangers, other = pool.map(ask, range(42))

    (made,) = (answer for answer in [*equal, other] if answer.status_code == 201)
    losers = {answer.status_code for answer in equal if answer is not made}
    assert losers <= ({409, 422} if made is other else {200, 409})  # which request was first is up to them
    assert made is other or other.status_code in (409, 422)
    assert {answer.json()["outboxId"] for answer in equal if answer.ok} | {made.json()["outboxId"]} == {
        made.json()["outboxId"]
    }
    assert strangers.status_code == 201
    running.manage("dispatch", "--once")
    assert (rows(running, "outbox_outbox"), rows(running, "outbox_attempt")) == (2, 2)
    assert "the books are right" in running.manage("audit")


def test_whatever_was_answered_before_a_kill_is_there_and_a_repetition_doubles_nothing(running):
    promised, keys = {}, iter(range(10**6))
    stop = threading.Event()
    lock = threading.Lock()

    def client():
        while not stop.is_set():
            with lock:
                key = f"order-{next(keys)}"
            while True:
                try:
                    answer = running.post(BODY, **{"Idempotency-Key": key})
                except requests.ConnectionError:
                    time.sleep(0.05)
                    continue
                assert answer.status_code in (200, 201), answer.text
                promised[key] = answer.json()["outboxId"]
                break

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client) for _ in range(8)]
        try:
            for _ in range(KILLS):
                time.sleep(random.uniform(0.1, 1.5))
                running.kill()
                running.start()
        finally:
            stop.set()
        for finished in clients:
            finished.result(STUCK_S)

    with psycopg.connect(running.cluster.url) as database:
        kept = database.execute("SELECT key, outbox_id::text FROM outbox_idempotencykey").fetchall()
    print(f"{len(promised)} accepted, {KILLS} kills")
    assert len(promised) > KILLS
    assert sorted(kept) == sorted(promised.items())
    assert rows(running, "outbox_outbox") == len(promised)
    assert max(Counter(promised.values()).values()) == 1
    assert "the books are right" in running.manage("audit")
