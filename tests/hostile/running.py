"""The misbehaving provider as a process: started and stopped for a test, its journal, and the settings that name it."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from tests.portal import ROOT

NAME = "hostile"
TOKEN = "only-for-tests"
RECEIPTS = f"/api/providers/{NAME}/receipts/{TOKEN}?reference={{reference}}"


class Running:
    """A running provider; kill() and a new one with the same journal and port are its way through a crash."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, journal: Path) -> None:
        self.process = process
        self.port = port
        self._journal = journal

    def journal(self) -> list[dict[str, Any]]:
        """What it has taken, in this order: reference, to, text, mode, id."""
        lines = self._journal.read_text().splitlines() if self._journal.exists() else []
        return [json.loads(line) for line in lines]

    def taken(self, reference: object) -> int:
        """How often it has taken a message."""
        return sum(entry["reference"] == str(reference) for entry in self.journal())

    def send_receipts(self, manner: str = "late", references: list[str] | None = None) -> list[int]:
        """Let it send receipts for these messages in its journal, or all; the HTTP status that each one met."""
        statuses: list[int] = self._control("receipts", manner=manner, references=references)
        return statuses

    def flood(self, manner: str, per_second: float, seconds: float) -> list[tuple[int, float]]:
        """Let it send receipts at this rate, again and again for what it has taken: their HTTP statuses and seconds."""
        posts: list[tuple[int, float]] = self._control("flood", manner=manner, per_second=per_second, seconds=seconds)
        return posts

    def _control(self, what: str, **given: Any) -> Any:
        return requests.post(f"http://127.0.0.1:{self.port}/control/{what}", json=given, timeout=300).json()

    def settings(self, **options: Any) -> dict[str, Any]:
        """SMS_PROVIDERS with this provider alone, its OPTIONS changed."""
        given = {
            "url": f"http://127.0.0.1:{self.port}/sms",
            "timeout_s": 10,
            "json": {"to": "{recipient}", "text": "{text}", "reference": "{reference}", "receipt": "{receipt_url}"},
            "accepted": {"status": [200], "pointer": "/status", "equals": "accepted"},
            "rejected": {"status": [200, 400], "pointer": "/status", "equals": "rejected"},
            "id": "/id",
            "receipt_token": TOKEN,
            "receipt": {
                "reference": "/reference",
                "id": "/id",
                "status": "/status",
                "delivered": ["delivered"],
                "undelivered": ["failed"],
                "in_transit": ["sent"],
            },
        }
        return {NAME: {"BACKEND": "outbox.providers.http.Provider", "OPTIONS": given | options}}


@contextlib.contextmanager
def running_provider(
    journal: Path, *, modes: str = "accept/late", seed: int = 0, port: int = 0, site: str = ""
) -> Iterator[Running]:
    """A provider in a process, as tests/hostile/provider.py tells.

    site: where its receipts go, for example http://127.0.0.1:8000; "": to {receipt_url}, as a message names it.
    """
    words = ["--port", str(port), "--journal", str(journal), "--modes", modes, "--seed", str(seed)]
    words += ["--receipts", site + RECEIPTS if site else ""]
    command = [sys.executable, "-m", "tests.hostile.provider", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield Running(process, json.loads(process.stdout.readline())["port"], journal)
        finally:
            process.kill()
