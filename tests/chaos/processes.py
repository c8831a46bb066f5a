"""The portal as an operator runs it, every part a real process, and what a bad day does to each."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

import psycopg
import requests
from psycopg.rows import scalar_row

from smsportal.embedded_postgres import Cluster
from smsportal.management.commands.demo import site
from tests.hostile.running import Running, running_provider
from tests.portal import READY_S, ROOT, free_port

PROVIDER_TIMEOUT_S = 2
HANDFUL, BUSY_S = 4, 10  # so many messages in the dispatchers' hands are waited for, so long
IN_HANDS = "SELECT COUNT(*) FROM outbox_attempt WHERE outcome IS NULL"
END_S = 60  # how long a part may take to end when it is asked to


class Part:
    """A process and its children, which can be killed, frozen, thawed, stopped and started again."""

    def __init__(self, command: list[str], environment: dict[str, str], log: IO[bytes]) -> None:
        self._command, self._environment, self._log = command, environment, log
        self.start()

    def start(self) -> None:
        self._frozen_until: float | None = None
        self._process = subprocess.Popen(
            self._command, env=self._environment, cwd=ROOT, stdout=self._log, stderr=self._log, start_new_session=True
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """Kill -9 of all its processes."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def kill_a_child(self) -> None:
        """Kill -9 of one of its children, and wait until the whole has ended, as it has to: a supervisor notices."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        self._process.wait(END_S)

    def freeze(self, seconds: float) -> None:
        self._signal(signal.SIGSTOP)
        self._frozen_until = time.monotonic() + seconds

    def thaw(self, *, at_once: bool = True) -> None:
        """Let it go on, or only when its time is over."""
        if self._frozen_until and (at_once or time.monotonic() > self._frozen_until):
            self._signal(signal.SIGCONT)
            self._frozen_until = None

    def is_frozen(self) -> bool:
        return self._frozen_until is not None

    def stop(self) -> int:
        """SIGTERM, as a deployment sends it; returns the exit status."""
        self.thaw()
        self._process.terminate()
        return self._process.wait(END_S)

    def _signal(self, signum: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signum)


class Provider:
    """The hostile provider. Started again, it goes on in its journal."""

    def __init__(self, journal: Path, site: str, modes: str, seed: int) -> None:
        self._new = partial(running_provider, journal, site=site, modes=modes, seed=seed)
        self._started = contextlib.ExitStack()
        self.running: Running = self._started.enter_context(self._new())

    def kill(self) -> None:
        self._started.close()

    def start(self) -> None:
        self.running = self._started.enter_context(self._new(port=self.running.port))


class Portal:
    """The site with its two processes, two dispatchers, PostgreSQL and a provider; logs and journal in `folder`."""

    def __init__(self, database: Cluster, folder: Path, modes: str, seed: int) -> None:
        self._folder, self._port = folder, free_port()
        self.base = f"http://127.0.0.1:{self._port}"
        self.database = database
        self.provider = Provider(folder / "journal", self.base, modes, seed)
        self.environment = os.environ | {
            "DATABASE_URL": database.url,
            "ALLOWED_HOSTS": "127.0.0.1",
            "PUBLIC_URL": self.base,
            "SMS_PROVIDERS": json.dumps(self.provider.running.settings(timeout_s=PROVIDER_TIMEOUT_S)),
            "LOG_LEVEL": "WARNING",
        }

    def __enter__(self) -> "Portal":
        return self

    def __exit__(self, *_: object) -> None:
        self.provider.kill()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """With web and workers; all of them are killed at the end, if they have not ended before."""
        with (self._folder / "web.log").open("wb") as web_log, (self._folder / "workers.log").open("wb") as workers_log:
            self.web = Part([*site(self._port), "--workers", "2"], self.environment, web_log)
            self.workers = [Part(self._manage("dispatch"), self.environment, workers_log) for _ in range(2)]
            try:
                self.wait_until_at_work()
                yield
            finally:
                for part in (self.web, *self.workers):
                    part.kill()

    def wait_until_at_work(self) -> None:
        deadline = time.monotonic() + READY_S
        while not self._is_at_work():
            assert time.monotonic() < deadline, "the portal did not get ready"
            time.sleep(0.1)

    def _is_at_work(self) -> bool:
        """Whether the site answers, and every dispatcher that is not frozen has said that it works."""
        try:
            with psycopg.connect(self.database.url) as database:
                beating = {pid for (pid,) in database.execute("SELECT pid FROM outbox_worker")}
            answer = requests.get(f"{self.base}/readyz", timeout=5)
        except (psycopg.OperationalError, requests.RequestException):
            return False
        return answer.status_code == 200 and beating >= {part.pid for part in self.workers if not part.is_frozen()}

    def awake(self, worker: int) -> Part:
        """The dispatcher of this number, or, while that one is frozen, the other."""
        one, other = self.workers[worker], self.workers[1 - worker]
        return other if one.is_frozen() and not other.is_frozen() else one

    def wait_until_busy(self) -> None:
        """Let a few messages be in the dispatchers' hands, if they come to have so many at once."""
        deadline = time.monotonic() + BUSY_S
        with psycopg.connect(self.database.url, autocommit=True, row_factory=scalar_row) as database:
            while int(database.execute(IN_HANDS).fetchone() or 0) < HANDFUL and time.monotonic() < deadline:
                time.sleep(0.01)

    def crash_database(self, signum: signal.Signals) -> None:
        """End it on the spot, and let it recover. SIGQUIT is `pg_ctl stop -m immediate`; SIGKILL is kill -9."""
        os.kill(int((self.database.directory / "data" / "postmaster.pid").read_text().split()[0]), signum)
        self.restart_database()

    def restart_database(self) -> None:
        self.database.stop()
        self.database.start()

    def manage(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command of manage.py to its end."""
        command = self._manage(*words)
        return subprocess.run(
            command, env=self.environment, input=stdin, capture_output=True, text=True, check=False, timeout=300
        )

    def must(self, *words: str, stdin: str = "") -> None:
        """Run a command that has to succeed."""
        done = self.manage(*words, stdin=stdin)
        assert done.returncode == 0, done.stderr

    def _manage(self, *words: str) -> list[str]:
        return [sys.executable, str(ROOT / "manage.py"), *words]
