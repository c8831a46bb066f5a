"""A provider that is slow, or floods us with receipts, and the whole portal in its processes beside it."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from smsportal.embedded_postgres import Cluster
from tests.hostile.running import Running, running_provider
from tests.load.measuring import Watch, send_evenly, watched
from tests.portal import Portal, free_port, running_portal
from tests.threads import until

HANGS_S = 30
BACKLOG = 300
RATE = 40  # sends a second
STUCK_S = 5  # nobody is idle in a transaction for so long who does not hold it through a call
GROWTH_MB = 200
POOL_SIZE = 16


@pytest.fixture
def portal_and_provider(tmp_path: Path) -> Iterator[tuple[Portal, Running]]:
    with Cluster(tmp_path / "postgres") as cluster, running_provider(tmp_path / "journal") as provider:
        settings = {
            "SMS_PROVIDERS": json.dumps(provider.settings(timeout_s=HANGS_S)),
            "DATABASE_POOL_SIZE": str(POOL_SIZE),
        }
        with running_portal(tmp_path, cluster.url, free_port(), **settings) as portal:
            assert portal.manage("top_up", "demo", "100000", "--reason", "for all").returncode == 0
            send_evenly(portal, "mode:accept warm up", RATE, 3)
            yield portal, provider
            # What still hangs ends with its provider, not with its deadline.
            provider.process.kill()


def test_a_provider_that_hangs_slows_no_send_and_holds_nothing_of_the_database(portal_and_provider):
    portal, provider = portal_and_provider
    idle = send_evenly(portal, "mode:accept", RATE, 15)
    with watched(portal) as seen:
        with ThreadPoolExecutor(8) as pool:
            texts = [f"mode:hang backlog {number}" for number in range(BACKLOG)]
            body = {"recipientPhoneNumber": "+254711000001"}
            backlog = list(pool.map(lambda text: portal.post("/api/sms/send", body | {"message": text}), texts))
        until(lambda: sum(line["mode"] == "hang" for line in provider.journal()) >= 64)
        hanging = send_evenly(portal, "mode:hang", RATE, 20)

    print(f"\nidle:    {idle}\nhanging: {hanging}")
    print(f"p95, hanging to idle: {hanging.percentile(95) / idle.percentile(95):.2f} (goal: at most 1.5)\n{seen}")
    assert Counter(answer.status_code for answer in backlog) == {201: BACKLOG}
    assert set(idle.statuses + hanging.statuses) == {201}
    assert seen.longest_idle_in_transaction_s < STUCK_S
    check_memory(seen)


def test_a_flood_of_receipts_is_answered_and_sends_go_on(portal_and_provider):
    portal, provider = portal_and_provider
    idle = send_evenly(portal, "mode:accept", RATE, 10)
    with watched(portal) as seen, ThreadPoolExecutor(1) as pool:
        flood = pool.submit(provider.flood, "late", 500, 10)
        begun = time.monotonic()
        flooded = send_evenly(portal, "mode:accept", RATE, 10)
        receipts = flood.result()
        took = time.monotonic() - begun
        after = send_evenly(portal, "mode:accept", RATE, 5)

    slowest = max(seconds for _, seconds in receipts)
    print(f"\nidle:    {idle}\nflooded: {flooded}\nafter:   {after}")
    print(f"{len(receipts)} receipts in {took:.1f} s, the slowest {slowest:.2f} s")
    print(f"p95, flooded to idle: {flooded.percentile(95) / idle.percentile(95):.2f}\n{seen}")
    assert set(flooded.statuses) == {201}
    assert Counter(status for status, _ in receipts) == {200: len(receipts)}
    assert seen.longest_idle_in_transaction_s < STUCK_S
    assert seen.most_connections <= 2 * POOL_SIZE  # the site and the dispatcher
    check_memory(seen)


def check_memory(seen: Watch) -> None:
    for name, sizes in seen.memory.items():
        assert max(sizes) < sizes[0] + GROWTH_MB, name
