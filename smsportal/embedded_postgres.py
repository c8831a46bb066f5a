"""A private PostgreSQL server for the demo and the tests, run from the machine's own programs or from a wheel's.

    with Cluster(".data/postgres") as cluster:
        os.environ["DATABASE_URL"] = cluster.url

The server lives as long as its owner, the process that called start(). SIGTERM ends Python without leaving the `with`
block; for a clean stop the owner turns it into SystemExit, as Ctrl-C already is KeyboardInterrupt:

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from smsportal.postgres_programs import Account, PostgresError, Programs, find_programs

START_SECONDS = 120  # a server that was killed replays its log first
STOP_SECONDS = 60
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "port": "5432",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    # Statements and details of errors carry phone numbers and texts, which are kept out of logs.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
# A shell at the end of a pipe from the owner: the pipe ends with the owner (and its forks), even by kill -9, and then
# the server gets the signal for a fast shutdown. PR_SET_PDEATHSIG would not do: it is Linux only and fires when the
# thread that called start() ends. The comparison spares a stranger that has inherited a dead server's number.
# It looks more than once, since an owner may be killed before the server has written its number.
GUARD = """
read -r _
for _ in 1 2 3 4 5; do read -r pid <"$2" && [ "$pid" = "$1" ] && kill -INT "$pid" && exit; sleep 1; done
"""


class Cluster:
    """One data directory and its server, reached at `url` over a Unix socket that only its user and root can open.

    directory: a folder of its own, made when missing. When we are root and the server's user cannot get there (below
    /root, say), a folder below /var/tmp takes its place, the same one each time; `directory` tells which it is.
    durable: False trades the safety of the data in a power cut for speed.
    """

    programs: Programs

    def __init__(self, directory: str | os.PathLike[str], durable: bool = True) -> None:
        self._account = Account.choose()
        self.directory = _place(Path(directory), self._account)
        self.log = self.directory / "log"
        self._data = self.directory / "data"
        self._pid_file = self._data / "postmaster.pid"
        # Not in the cluster's folder: the address of a Unix socket is at most 107 bytes long, and a path is not.
        self._socket = Path("/tmp", f"smsportal-{_digest(self._account.uid, self.directory)}", ".s.PGSQL.5432")
        settings = SETTINGS | {"unix_socket_directories": str(self._socket.parent)} | ({} if durable else NOT_DURABLE)
        self._settings = [f"-c{name}={value}" for name, value in settings.items()]
        self._owner = 0
        self._undo = contextlib.ExitStack()
        # The port names the socket's file; without it the caller's PGPORT would.
        self.url = f"postgresql://smsportal@/smsportal?host={self._socket.parent}&port=5432"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Return when the server answers, on the data of last time. Raises PostgresError, with nothing left running."""
        self._take_lock()
        self._owner = os.getpid()
        try:
            self._end_leftover()
            self.programs = find_programs(self._account, self._data, copy_to=self.directory / "programs")
            self._account.own(self._socket.parent)
            self._undo.callback(shutil.rmtree, self._socket.parent, ignore_errors=True)
            if not self._data.exists():
                self._create()
            self._launch()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all sessions, flush the data, end the server. A fork of the owner that gets here does nothing."""
        if os.getpid() == self._owner:
            self._undo.close()

    def crash(self) -> None:
        """End the server at once, as `pg_ctl stop -m immediate` does: start() then has it recover."""
        pid = int(self._pid_file.read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)
        self.stop()

    def _take_lock(self) -> None:
        """Become the owner; the lock goes with our process and is not handed on to the server."""
        lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        # A child that a killed owner had just forked has the lock until its exec, and a winner of this instant has not
        # written its number yet: both are over in a moment.
        deadline = time.monotonic() + 0.5
        while not _try_lock(lock):
            if time.monotonic() > deadline:
                owner = os.read(lock, 20).decode()
                os.close(lock)
                where = f"in this folder (pid {owner}): stop it, or use another folder than {self.directory}."
                raise PostgresError(f"Another demo is running {where}")
            time.sleep(0.02)
        self._undo.callback(os.close, lock)
        self._undo.callback(fcntl.flock, lock, fcntl.LOCK_UN)  # closing alone would not do while a fork of ours lives
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())

    def _end_leftover(self) -> None:
        """Stop the server of an owner who was killed, and clear the traces of one that was killed itself.

        Only a server that answers on our private socket is signalled: after a reboot the number in its file may be
        anybody's. For the same reason a dead server's number is replaced by ours, which its successor, our child,
        disregards; it still refuses to start while processes of the old one hold the shared memory the file names.
        """
        try:
            first, *rest = self._pid_file.read_text().splitlines() or ["0"]
        except FileNotFoundError:
            return
        pid, asked = int(first), False
        deadline = time.monotonic() + 1  # one that does not answer may be on its way in or out
        while self._pid_file.exists() and _is_alive(pid) and time.monotonic() < deadline:
            if not asked and pid > 0 and pid != os.getpid() and _answers(self._socket):
                os.kill(pid, signal.SIGINT)
                asked, deadline = True, time.monotonic() + STOP_SECONDS
            time.sleep(0.02)
        if self._pid_file.exists():
            self._pid_file.write_text("\n".join([str(os.getpid()), *rest, ""]))
            self._socket.with_name(f"{self._socket.name}.lock").unlink(missing_ok=True)

    def _create(self) -> None:
        """Make the data directory, with the database in it; it gets its name only when it is complete."""
        new = self.directory / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        initdb = [self.programs.folder / "initdb", "--pgdata", new, "--username=smsportal", "--no-instructions"]
        rules = ["--auth-local=trust", "--auth-host=reject", "--encoding=UTF8", "--locale=C", "--data-checksums"]
        self._account.run([*initdb, *rules, *(["--no-sync"] if "-cfsync=off" in self._settings else [])])
        # The server as a program without clients: nothing else, and no driver, is needed to make the database.
        single = [self.programs.folder / "postgres", "--single", "-D", new, *self._settings, "-cexit_on_error=on"]
        self._account.run([*single, "postgres"], stdin="CREATE DATABASE smsportal;\n")
        new.rename(self._data)

    def _launch(self) -> None:
        """Start the server and wait until it answers. Raises PostgresError with the end of its log."""
        retry_until = time.monotonic() + 30
        while not self._try_launch():
            log = self.log.read_bytes()[self._log_offset :].decode(errors="replace")
            # Sessions of a killed server keep its memory until they notice; and a server whose owner was killed this
            # instant may come up only now.
            if not re.search("shared memory block|lock file .* already exists", log) or time.monotonic() > retry_until:
                raise PostgresError("\n".join([f"PostgreSQL did not start, says {self.log}:", *log.splitlines()[-15:]]))
            time.sleep(0.2)
            self._end_leftover()

    def _try_launch(self) -> bool:
        """Start the server and its guard; whether it got ready. What was started ends with stop() in any case."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        with os.fdopen(os.open(self.log, flags, 0o600), "ab") as log:
            self._log_offset = log.tell()
            postgres = [self.programs.folder / "postgres", "-D", self._data, *self._settings]
            server = self._account.popen(postgres, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._undo.callback(_end, server)
        guard = ["/bin/sh", "-c", GUARD, "sh", server.pid, self._pid_file]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._undo.callback(_dismiss, self._account.popen(guard, stdin=subprocess.PIPE, **silent))
        deadline = time.monotonic() + START_SECONDS
        while server.poll() is None and time.monotonic() < deadline:
            if self._is_ready(server.pid):
                return True
            time.sleep(0.02)
        return False

    def _is_ready(self, pid: int) -> bool:
        """The server writes its state on the eighth line of its pid file, where pg_ctl reads it too."""
        try:
            lines = self._pid_file.read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


@contextlib.contextmanager
def temporary_cluster(durable: bool = False) -> Iterator[Cluster]:
    """A running cluster for tests, deleted at the end; fast and not durable, unless they are about crashes of it."""
    folder, owner = tempfile.mkdtemp(prefix="smsportal-"), os.getpid()
    cluster = Cluster(folder, durable)
    try:
        with cluster:
            yield cluster
    finally:
        if os.getpid() == owner:  # not a fork of it
            for place in (cluster.directory, folder):  # for root they may be two
                shutil.rmtree(place, ignore_errors=True)


def _place(wanted: Path, account: Account) -> Path:
    """The folder the cluster lives in: `wanted`, or a private one when the server's user cannot get there."""
    wanted = Path(os.path.realpath(wanted))
    wanted.parent.mkdir(parents=True, exist_ok=True)
    if not account.can_enter(wanted.parent):
        wanted = Path("/var/tmp", f"smsportal-{_digest(wanted)}")
    account.own(wanted)
    return wanted


def _end(server: subprocess.Popen[bytes]) -> None:
    """Shut the server down `fast`: cut its sessions, flush the data. One that hangs is killed and recovers later."""
    for signum, patience in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, 10), (signal.SIGKILL, 10)):
        server.send_signal(signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(patience)
            return


def _dismiss(guard: subprocess.Popen[bytes]) -> None:
    with guard:  # terminated, since its pipe does not end while a fork of ours lives
        guard.terminate()


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _answers(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(address)) == 0


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:  # nobody has this number, or somebody who is not our server
        return False
    return True


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]
