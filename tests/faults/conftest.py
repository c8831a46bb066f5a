"""A site in processes of its own, started as the README says, on a PostgreSQL that survives its own crashes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from smsportal.embedded_postgres import Cluster, temporary_cluster
from smsportal.management.commands.demo import site
from tests.portal import ROOT, free_port

STUCK_S = 120
LOG_INS = {
    "username": "demo",
    "password": "only-for-tests",
    "adminUsername": "admin",
    "adminPassword": "only-for-tests",
    "apiKey": f"sms_{'k' * 43}",
}


class Site:
    """The site, its database and its commands."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.port = free_port()
        self.environment = os.environ | {
            "DATABASE_URL": cluster.url,
            "SMS_PROVIDERS": json.dumps({"simulator": {"BACKEND": "outbox.providers.simulator.Provider"}}),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            site(self.port), cwd=ROOT, env=self.environment, start_new_session=True, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + STUCK_S
        while True:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"http://127.0.0.1:{self.port}/healthz", timeout=STUCK_S).ok:
                    return
            assert time.monotonic() < deadline, "the site did not get ready"
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill -9 of the server and of its workers."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def post(self, body: dict[str, Any], key: str = LOG_INS["apiKey"], **headers: str) -> requests.Response:
        """POST /api/sms/send."""
        address, bearer = f"http://127.0.0.1:{self.port}/api/sms/send", {"Authorization": f"Bearer {key}"}
        return requests.post(address, json=body, headers=bearer | headers, timeout=STUCK_S)

    def entry(self, outbox_id: str) -> dict[str, Any]:
        """GET /api/sms/outbox/{outboxId}."""
        address = f"http://127.0.0.1:{self.port}/api/sms/outbox/{outbox_id}"
        answer = requests.get(address, headers={"Authorization": f"Bearer {LOG_INS['apiKey']}"}, timeout=STUCK_S)
        assert answer.status_code == 200, answer.text
        entry: dict[str, Any] = answer.json()
        return entry

    def manage(self, *words: str, stdin: str = "") -> str:
        """Run a command of manage.py to its end, and return what it prints."""
        command = [sys.executable, str(ROOT / "manage.py"), *words]
        done = subprocess.run(command, env=self.environment, input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def dispatcher(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(ROOT / "manage.py"), "dispatch"]
        return subprocess.Popen(command, env=self.environment, stderr=subprocess.DEVNULL)


@pytest.fixture
def running() -> Iterator[Site]:
    """A site with a user, prices and money."""
    with temporary_cluster(durable=True) as cluster:
        running = Site(cluster)
        running.manage("migrate", "--verbosity=0")
        running.manage("demo_data", stdin=json.dumps(LOG_INS))
        running.manage("top_up", "demo", "10000", "--reason", "for all")
        running.start()
        try:
            yield running
        finally:
            running.kill()
