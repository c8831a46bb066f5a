"""The whole portal as its users run it: `manage.py demo` in processes of its own, for tests that cross its borders."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).resolve().parent.parent
READY_S = 120


@dataclass
class Portal:
    """A running demo: its addresses and log-ins, and calls of its API with its key."""

    told: dict[str, str]  # what --json wrote
    process: subprocess.Popen[bytes]

    def post(self, path: str, body: dict[str, Any], **headers: str) -> requests.Response:
        return requests.post(self.told["baseUrl"] + path, json=body, headers=self._key() | headers, timeout=60)

    def get(self, path: str, **query: str) -> requests.Response:
        return requests.get(self.told["baseUrl"] + path, params=query, headers=self._key(), timeout=60)

    def log(self) -> dict[str, dict[str, Any]]:
        """Every entry of the outbox, by its id."""
        entries: dict[str, dict[str, Any]] = {}
        page = self.get("/api/sms/outbox", pageSize="200").json()
        while True:
            entries |= {entry["outboxId"]: entry for entry in page["results"]}
            if page["next"] is None:
                return entries
            page = requests.get(page["next"], headers=self._key(), timeout=60).json()

    def manage(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of manage.py on the demo's database."""
        environment = os.environ | {"DATABASE_URL": self.told["databaseUrl"], "SECRET_KEY": "only-for-tests"}
        return subprocess.run(
            [sys.executable, str(ROOT / "manage.py"), *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def _key(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.told['apiKey']}"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running_portal(directory: Path, database_url: str, port: int | None = None, **settings: str) -> Iterator[Portal]:
    """A demo with these settings, stopped by SIGTERM at the end."""
    told = directory / "portal.json"
    told.unlink(missing_ok=True)
    command = [sys.executable, str(ROOT / "manage.py"), "demo", "--port", str(port or free_port()), "--json", str(told)]
    # The tests' own settings stay with the tests.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SMS_", "DJANGO_"))}
    for name in (
        "SECRET_KEY",
        "ALLOWED_HOSTS",
        "PUBLIC_URL",
        "DEBUG",
        "SERVE_STATIC_FROM_SOURCE",
    ):
        kept.pop(name, None)
    log = (directory / "portal.log").open("wb")
    with (
        log,
        subprocess.Popen(
            command, env=kept | {"DATABASE_URL": database_url} | settings, stdout=log, stderr=log
        ) as process,
    ):
        try:
            deadline = time.monotonic() + READY_S
            while not told.exists():
                assert process.poll() is None, f"the demo ended: {(directory / 'portal.log').read_text()}"
                assert time.monotonic() < deadline, "the demo did not get ready"
                time.sleep(0.1)
            yield Portal(json.loads(told.read_text()), process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
