"""What a portal under load looks like from outside: how long its sends take, its connections, its memory."""

import contextlib
import os
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import requests

from tests.portal import Portal

SENDERS = 4
STATES = """
    SELECT state, extract(epoch FROM clock_timestamp() - state_change)::float FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


@dataclass
class Sends:
    """How single sends were answered, and in how many seconds each."""

    statuses: list[int]
    seconds: list[float]

    def percentile(self, percent: int) -> float:
        """In milliseconds."""
        return statistics.quantiles(self.seconds, n=100)[percent - 1] * 1000

    def __str__(self) -> str:
        return f"{len(self.seconds)} sends, p50 {self.percentile(50):.1f} ms, p95 {self.percentile(95):.1f} ms"


def send_evenly(portal: Portal, text: str, per_second: float, seconds: float) -> Sends:
    """Send at this rate from a few connections, each of which waits for its answers."""

    def send(sender: int) -> list[tuple[int, float]]:
        answers = []
        with requests.Session() as session:
            begun = time.monotonic() + sender / per_second
            for number in range(int(per_second * seconds / SENDERS)):
                time.sleep(max(0.0, begun + number * SENDERS / per_second - time.monotonic()))
                body = {"recipientPhoneNumber": f"+25471{sender}{number:06}", "message": text}
                asked = time.perf_counter()
                answer = session.post(
                    portal.told["baseUrl"] + "/api/sms/send",
                    json=body,
                    headers={"Authorization": f"Bearer {portal.told['apiKey']}"},
                    timeout=60,
                )
                answers.append((answer.status_code, time.perf_counter() - asked))
        return answers

    with ThreadPoolExecutor(SENDERS) as pool:
        answers = [answer for sender in pool.map(send, range(SENDERS)) for answer in sender]
    return Sends(*map(list, zip(*answers, strict=True)))


@dataclass
class Watch:
    """What was seen of a portal: connections to its database, and the memory of its processes in MB, by name."""

    most_connections: int = 0
    longest_idle_in_transaction_s: float = 0.0
    memory: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def __str__(self) -> str:
        memory = "; ".join(
            f"{name} {seen[0]:.0f} MB at first, {seen[-1]:.0f} at the end, {max(seen):.0f} at most"
            for name, seen in self.memory.items()
        )
        idle = f"idle in a transaction for {self.longest_idle_in_transaction_s * 1000:.0f} ms at most"
        return f"{self.most_connections} connections at most, {idle}; {memory}"


@contextlib.contextmanager
def watched(portal: Portal) -> Iterator[Watch]:
    """Look at the portal twenty times a second, and at its memory once."""
    seen, over = Watch(), threading.Event()
    with psycopg.connect(portal.told["databaseUrl"], autocommit=True) as connection:

        def look() -> None:
            memory_at = 0.0
            while not over.wait(0.05):
                rows = connection.execute(STATES).fetchall()
                idle = [seconds for state, seconds in rows if str(state).startswith("idle in transaction")]
                seen.most_connections = max(seen.most_connections, len(rows))
                seen.longest_idle_in_transaction_s = max(seen.longest_idle_in_transaction_s, *idle, 0.0)
                if time.monotonic() >= memory_at:
                    memory_at = time.monotonic() + 1
                    for name, megabytes in _memory(portal.process.pid).items():
                        seen.memory[name].append(megabytes)

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            yield seen
        finally:
            over.set()
            watcher.join()


def _memory(parent: int) -> dict[str, float]:
    """The resident memory of the site's and the dispatcher's processes, in MB."""
    sizes: dict[str, float] = defaultdict(float)
    for pid in _descendants(parent):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            name = "dispatcher" if b"dispatch" in command else "site"
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            sizes[name] += pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return sizes


def _descendants(parent: int) -> list[int]:
    children = []
    for task in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children += [int(pid) for pid in task.read_text().split()]
    return children + [pid for child in children for pid in _descendants(child)]
