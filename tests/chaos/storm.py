"""What goes wrong on a bad day, one thing after the other."""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from outbox.dispatch import LEASE_MARGIN_S
from tests.chaos.processes import PROVIDER_TIMEOUT_S, Portal
from tests.chaos.traffic import ANSWER_S

FROZEN_WEB_S = ANSWER_S + 2
FROZEN_WORKER_S = PROVIDER_TIMEOUT_S + LEASE_MARGIN_S + 2  # then all its leases are over


@dataclass(frozen=True)
class Round:
    """One thing that goes wrong, so many seconds after the one before it."""

    after_s: float
    deed: Callable[[Portal, int], None]
    worker: int  # whom it meets, if it meets a worker

    def __str__(self) -> str:
        whom = f" {self.worker}" if "worker" in self.deed.__name__ else ""
        return f"after {self.after_s:.1f} s: {self.deed.__name__.replace('_', ' ')}{whom}"


def kill_web(portal: Portal, worker: int) -> None:
    portal.web.kill()
    portal.web.start()


def kill_a_web_process(portal: Portal, worker: int) -> None:
    portal.web.kill_a_child()
    portal.web.start()


def freeze_web(portal: Portal, worker: int) -> None:
    portal.web.freeze(FROZEN_WEB_S)


def kill_worker(portal: Portal, worker: int) -> None:
    portal.wait_until_busy()
    victim = portal.awake(worker)
    victim.kill()
    victim.start()


def freeze_worker(portal: Portal, worker: int) -> None:
    """Past its leases: thawed while other things go wrong."""
    portal.wait_until_busy()
    portal.awake(worker).freeze(FROZEN_WORKER_S)


def deploy_worker(portal: Portal, worker: int) -> None:
    portal.wait_until_busy()
    victim = portal.awake(worker)
    assert victim.stop() == 0
    victim.start()


def crash_database(portal: Portal, worker: int) -> None:
    portal.crash_database(signal.SIGQUIT)


def kill_database(portal: Portal, worker: int) -> None:
    portal.crash_database(signal.SIGKILL)


def kill_provider(portal: Portal, worker: int) -> None:
    portal.provider.kill()
    time.sleep(1)  # in which it refuses connections
    portal.provider.start()


def restart_all(portal: Portal, worker: int) -> None:
    parts = [portal.web, *portal.workers]
    for part in parts:
        part.stop()
    portal.restart_database()
    for part in parts:
        part.start()


DEEDS = [
    kill_web,
    kill_a_web_process,
    freeze_web,
    kill_worker,
    freeze_worker,
    deploy_worker,
    crash_database,
    kill_database,
    kill_provider,
    restart_all,
]


def plan(seed: int, rounds: int) -> list[Round]:
    """All deeds in some order, then in another one, and so on."""
    chance = random.Random(seed)
    deeds = [deed for _ in range(0, rounds, len(DEEDS)) for deed in chance.sample(DEEDS, len(DEEDS))]
    return [Round(chance.uniform(1, 4), deed, chance.randrange(2)) for deed in deeds[:rounds]]


def storm(portal: Portal, rounds: list[Round]) -> None:
    """Do all that is planned; returns when the portal is whole again."""
    begun = time.monotonic()
    for number, one in enumerate(rounds, 1):
        pause(portal, one.after_s)
        print(f"{time.monotonic() - begun:5.0f} s  {number:2}. {one}", flush=True)
        one.deed(portal, one.worker)
        while portal.web.is_frozen():
            pause(portal, 0.1)
        portal.wait_until_at_work()
    while any(part.is_frozen() for part in portal.workers):
        pause(portal, 0.1)


def pause(portal: Portal, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for part in (portal.web, *portal.workers):
            part.thaw(at_once=False)
        time.sleep(0.05)
