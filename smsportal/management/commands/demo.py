"""The whole portal on this machine, for trying it: PostgreSQL, the site and a dispatcher, until Ctrl-C."""

import contextlib
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from smsportal.embedded_postgres import Cluster
from smsportal.models import ApiKey
from smsportal.postgres_programs import PostgresError

READY_S = 60
STOP_S = 40  # a dispatcher lets its calls end

BANNER = """
SMS Portal is running.

  Site      {base}/            log in as {username} / {password}
  Admin     {base}/admin/      log in as {admin_username} / {admin_password}
  API       {base}/api/docs    key {api_key}

Send a message:

  curl -s {base}/api/sms/send -H 'Authorization: Bearer {api_key}' \\
    -H 'Content-Type: application/json' -d '{{"recipientPhoneNumber": "+254712345678", "message": "Hello"}}'

Commands, in another shell:

  . {data}/demo.env && {python} manage.py audit

{note}Ctrl-C stops everything; the data stay in {data}.
"""
SIMULATED = (
    "Nothing leaves this machine: a simulator plays the provider, and the number's last digits choose what it does.\n"
)


class Command(BaseCommand):
    help = "Run everything on this machine: PostgreSQL, a demo user with prices and money, the site and a dispatcher."
    requires_system_checks: list[str] = []  # the settings are made below, for the processes that need them

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--port", type=int, default=8000, metavar="N", help="of the site on 127.0.0.1 (%(default)s)"
        )
        parser.add_argument("--json", type=Path, metavar="FILE", help="write addresses and log-ins there")

    def handle(self, *args: Any, **options: Any) -> None:
        # From here on SIGTERM ends the demo as Ctrl-C does: everything that was started is stopped on the way out.
        # SIGINT too: a shell that starts us in the background has it ignored.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _interrupt)
        refuse_taken_port(options["port"])
        with contextlib.ExitStack() as started, contextlib.suppress(KeyboardInterrupt):
            environment = self._environment(options["port"], started)
            log_ins = self._log_ins()
            self._keep_for_commands(environment | {"API_KEY": log_ins["apiKey"]})
            manage(environment, "migrate", "--verbosity=0")
            manage(environment, "demo_data", stdin=json.dumps(log_ins))
            processes = [
                started.enter_context(running("site", site(options["port"]), environment)),
                started.enter_context(running("dispatcher", manage_command("dispatch"), environment)),
            ]
            base = f"http://127.0.0.1:{options['port']}"
            wait_until_ready(base, processes)
            self._announce(base, log_ins, environment, options["json"])
            try:
                watch(processes)
            except KeyboardInterrupt:
                self.stdout.write("Stopping; calls under way are let finish.")
                raise

    def _environment(self, port: int, started: contextlib.ExitStack) -> dict[str, str]:
        """What the demo's processes run with: whatever the caller has set, and a default for the rest."""
        defaults = {
            "SECRET_KEY": self._kept("secret_key", secrets.token_urlsafe(50)),
            "ALLOWED_HOSTS": "127.0.0.1,localhost",
            "PUBLIC_URL": f"http://127.0.0.1:{port}",
            "SERVE_STATIC_FROM_SOURCE": "true",
            "SMS_PROVIDERS": json.dumps({"simulator": {"BACKEND": "outbox.providers.simulator.Provider"}}),
            "SMS_CURRENCY": "KES",
            "SMS_DEFAULT_REGION": "KE",
            "SMS_RATE_LIMIT_PER_MINUTE": "0",  # so that whoever tries how fast it is measures that
            "LOG_LEVEL": "WARNING",
            "WEBHOOKS_TO_PRIVATE_ADDRESSES": "true",  # a developer's receiver is on this machine
            "LOG_FORMAT": "console",
        }
        given = {name: value for name, value in os.environ.items() if value}  # .env included: settings have read it
        environment = defaults | given
        if "DATABASE_URL" not in environment:
            self.stdout.write("Starting PostgreSQL ...")
            self.stdout.flush()
            try:
                environment["DATABASE_URL"] = started.enter_context(Cluster(self._data() / "postgres")).url
            except (PostgresError, OSError) as error:
                raise CommandError(str(error)) from error
        return environment

    def _keep_for_commands(self, environment: dict[str, str]) -> None:
        """Write down, for a shell, the settings that make other commands and calls of the API work on the demo."""
        path = self._data() / "demo.env"
        path.touch(0o600)
        ours = ("DATABASE_URL", "SECRET_KEY", "ALLOWED_HOSTS", "PUBLIC_URL", "API_KEY")
        path.write_text(
            "".join(
                f"export {name}={shlex.quote(value)}\n"
                for name, value in sorted(environment.items())
                if name in ours or name.startswith("SMS_")
            )
        )

    def _log_ins(self) -> dict[str, str]:
        """The demo's users, their passwords and the key: made once, so that they hold at the next start too."""
        made = {
            "username": "demo",
            "password": secrets.token_urlsafe(9),
            "adminUsername": "admin",
            "adminPassword": secrets.token_urlsafe(9),
            "apiKey": ApiKey.PREFIX + secrets.token_urlsafe(32),
        }
        kept: dict[str, str] = json.loads(self._kept("log_ins.json", json.dumps(made)))
        return kept

    def _kept(self, name: str, first_content: str) -> str:
        """The content of a private file of the demo's, written at the first start."""
        path = self._data() / name
        if not path.exists():
            path.touch(0o600)
            path.write_text(first_content)
        return path.read_text()

    def _data(self) -> Path:
        folder: Path = settings.BASE_DIR / ".data"
        folder.mkdir(exist_ok=True)
        return folder

    def _announce(self, base: str, log_ins: dict[str, str], environment: dict[str, str], file: Path | None) -> None:
        simulated = "providers.simulator" in environment["SMS_PROVIDERS"]
        self.stdout.write(
            BANNER.format(
                base=base,
                username=log_ins["username"],
                password=log_ins["password"],
                admin_username=log_ins["adminUsername"],
                admin_password=log_ins["adminPassword"],
                api_key=log_ins["apiKey"],
                note=SIMULATED if simulated else "",
                data=os.path.relpath(self._data()),
                python=os.path.relpath(sys.executable),
            )
        )
        self.stdout.flush()
        if file:
            told = {"baseUrl": base, **log_ins, "databaseUrl": environment["DATABASE_URL"]}
            # In one step, so that whoever waits for the file never reads half of it.
            partial = file.with_name(f"{file.name}.partial")
            partial.write_text(json.dumps(told, indent=2))
            partial.replace(file)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def refuse_taken_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise CommandError(f"Port {port} is in use: stop what uses it, or choose another with --port.") from error


def manage_command(*words: str) -> list[str]:
    return [sys.executable, str(settings.BASE_DIR / "manage.py"), *words]


def manage(environment: dict[str, str], *words: str, stdin: str = "") -> None:
    """Run a command of manage.py to its end."""
    done = subprocess.run(manage_command(*words), env=environment, input=stdin, text=True, check=False)
    if done.returncode:
        raise CommandError(f"`manage.py {words[0]}` failed.")


def site(port: int) -> list[str]:
    """The web server, as the README starts it in production."""
    return [
        *(sys.executable, "-m", "granian", "--interface", "asginl", "smsportal.asgi:application"),
        *("--host", "127.0.0.1", "--port", str(port), "--http", "1", "--http1-header-read-timeout", "10000"),
        *("--backpressure", "4096", "--no-ws", "--log-level", "error"),
    ]


@contextlib.contextmanager
def running(
    name: str, command: list[str], environment: dict[str, str]
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A process out of reach of the terminal's Ctrl-C: it is stopped, gently first, at the end of the block."""
    process = subprocess.Popen(command, env=environment, cwd=settings.BASE_DIR, start_new_session=True)
    try:
        yield name, process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(base: str, processes: list[tuple[str, subprocess.Popen[bytes]]]) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        refuse_ended(processes)
        try:
            with urllib.request.urlopen(f"{base}/healthz", timeout=5):  # noqa: S310  # our own address
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise CommandError(f"The site did not answer within {READY_S} seconds.")


def watch(processes: list[tuple[str, subprocess.Popen[bytes]]]) -> None:
    while True:
        refuse_ended(processes)
        time.sleep(0.5)


def refuse_ended(processes: list[tuple[str, subprocess.Popen[bytes]]]) -> None:
    for name, process in processes:
        if process.poll() is not None:
            raise CommandError(f"The {name} has ended by itself (status {process.returncode}); see above.")
