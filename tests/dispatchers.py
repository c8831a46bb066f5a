"""Dispatchers at work: in a thread, or as processes of their own on the tests' database with a gateway to talk to."""

import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from django.db import connection, connections

from outbox.dispatch import Dispatcher
from tests.portal import ROOT

STUCK_S = 120


def wait_until(holds: Callable[[], object], seconds: float = STUCK_S) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "something is stuck"
        time.sleep(0.02)


@contextlib.contextmanager
def at_work(dispatcher: Dispatcher) -> Iterator[Dispatcher]:
    """A dispatcher in a thread, stopped at the end."""

    def run() -> None:
        try:
            dispatcher.run()
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield dispatcher
    finally:
        dispatcher.stop()
        thread.join(STUCK_S)
        assert not thread.is_alive(), "the dispatcher does not end"


# --- processes --------------------------------------------------------------------------------------------------------


class Gateway(http.server.ThreadingHTTPServer):
    """Takes every message into its journal, and answers when `answers` is set."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.journal: list[str] = []  # our outbox ids
        self.answers = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/"

    def providers(self, timeout_s: float) -> str:
        """SMS_PROVIDERS with this one, called "gateway"."""
        options = {
            "url": self.url,
            "timeout_s": timeout_s,
            "json": {"to": "{recipient}", "text": "{text}", "reference": "{reference}"},
            "accepted": {"status": [200], "pointer": "/status", "equals": "accepted"},
            "id": "/id",
        }
        return json.dumps({"gateway": {"BACKEND": "outbox.providers.http.Provider", "OPTIONS": options}})

    def handle_error(self, request: object, client_address: object) -> None:
        """Callers are killed and stopped here; their connections break."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        gateway = self.server
        assert isinstance(gateway, Gateway)
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        gateway.journal.append(message["reference"])
        gateway.answers.wait(STUCK_S)
        answer = json.dumps({"status": "accepted", "id": f"g-{message['reference']}"}).encode()
        with contextlib.suppress(OSError):
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def gateway() -> Iterator[Gateway]:
    with Gateway() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.answers.set()
            server.shutdown()


@dataclass
class Process:
    """A running `manage.py dispatch`."""

    process: subprocess.Popen[bytes]
    log_file: Path

    def log(self) -> str:
        return self.log_file.read_text()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ends(self, seconds: float = STUCK_S) -> int:
        """Its exit status, once it has ended."""
        return self.process.wait(seconds)


# Runs the command after `first`, in which a test may change what a machine or a slow day would change.
START = "import os, sys\nos.environ['DJANGO_SETTINGS_MODULE'] = 'smsportal.settings'\n{first}\n"
START += "from django.core.management import execute_from_command_line\nexecute_from_command_line(sys.argv)"


@contextlib.contextmanager
def process(
    log_file: Path, providers: str, *, concurrency: int = 8, first: str = "", **environment: str
) -> Iterator[Process]:
    """A dispatcher on the tests' database; killed at the end, if it is still there."""
    command = [sys.executable, "-c", START.format(first=first), "dispatch", "--concurrency", str(concurrency)]
    settings = {"DATABASE_URL": database_url(), "SMS_PROVIDERS": providers, "LOG_LEVEL": "DEBUG"}
    with log_file.open("wb") as log:
        started = subprocess.Popen(command, cwd=ROOT, env=os.environ | settings | environment, stdout=log, stderr=log)
    try:
        yield Process(started, log_file)
    finally:
        started.kill()
        started.wait()


def database_url(name: str | None = None) -> str:
    """The tests' database, or another one beside it."""
    database = connection.settings_dict
    login = f"{database['USER']}:{database['PASSWORD']}@" if database["PASSWORD"] else f"{database['USER']}@"
    host = database["OPTIONS"].get("host") or database["HOST"]
    port = database["OPTIONS"].get("port") or database["PORT"] or 5432
    return f"postgresql://{login}/{name or database['NAME']}?host={host}&port={port}"


@contextlib.contextmanager
def outage() -> Iterator[None]:
    """The database is gone for everybody but the test itself: sessions are cut, new ones refused."""
    allow = f'ALTER DATABASE "{connection.settings_dict["NAME"]}" ALLOW_CONNECTIONS {{}}'
    connection.ensure_connection()
    with psycopg.connect(database_url("postgres"), autocommit=True) as elsewhere:
        elsewhere.execute(allow.format("false"))
        try:
            cut_sessions()
            yield
        finally:
            elsewhere.execute(allow.format("true"))


def cut_sessions() -> None:
    """End every session on the tests' database but our own."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
