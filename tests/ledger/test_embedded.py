"""The embedded Postgres starts, is adopted, stops, and comes back after everything was killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from sqlalchemy import make_url, text

from gateway.ledger import embedded, postmaster
from gateway.ledger.account import server_account
from gateway.ledger.database import create_engine
from gateway.ledger.errors import EmbeddedPostgresError


@pytest.fixture
def empty_dir() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="sparkgate-test-"))
    yield folder
    embedded.stop(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def stopped_dir() -> Iterator[Path]:
    """A data directory whose server ran once, holds a table and is stopped."""
    folder = Path(tempfile.mkdtemp(prefix="sparkgate-test-"))
    with embedded.running(folder) as url:
        run(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    with (folder / "pg" / "postgresql.conf").open("a") as settings:
        settings.write("fsync = off\n")  # nothing here must survive a power loss
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def data_dir(empty_dir: Path, stopped_dir: Path) -> Path:
    """A copy of `stopped_dir` of the test's own."""
    subprocess.run(["/bin/cp", "-a", f"{stopped_dir}/.", empty_dir], check=True)
    return empty_dir


def run(url: str, statement: str) -> object:
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            result = connection.execute(text(statement))
            return result.scalar() if result.returns_rows else None
    finally:
        engine.dispose()


def pid_of(data_dir: Path) -> int:
    server = postmaster.find(data_dir / "pg")
    assert server is not None
    return server.pid


def kill_server(data_dir: Path) -> None:
    """SIGKILL to the postmaster and all its processes at once."""
    pid = pid_of(data_dir)
    for process in [psutil.Process(pid), *psutil.Process(pid).children()]:
        with suppress(psutil.NoSuchProcess):  # followed the postmaster by itself
            process.kill()
    while postmaster.find(data_dir / "pg") or postmaster.orphans(data_dir / "pg"):
        time.sleep(0.01)


def test_start_is_idempotent_and_stop_keeps_the_data(data_dir: Path) -> None:
    assert embedded.running_url(data_dir) is None
    url = embedded.start(data_dir)
    run(url, "UPDATE kept SET answer = 43")
    pid = pid_of(data_dir)
    assert embedded.start(data_dir) == embedded.running_url(data_dir) == url
    assert pid_of(data_dir) == pid
    embedded.stop(data_dir)
    embedded.stop(data_dir)
    assert embedded.running_url(data_dir) is None
    assert run(embedded.start(data_dir), "SELECT answer FROM kept") == 43


def test_a_first_start_makes_postgres_18_with_the_builtin_locale(empty_dir: Path) -> None:
    url = embedded.start(empty_dir)
    assert str(run(url, "SHOW server_version")).startswith("18.")
    assert run(url, "SELECT datlocprovider FROM pg_database WHERE datname = 'sparkgate'") == "b"
    assert run(url, "SHOW listen_addresses") == ""


def test_the_server_outlives_the_process_that_started_it(data_dir: Path) -> None:
    code = "import sys, pathlib; from gateway.ledger import embedded; print(embedded.start(pathlib.Path(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(data_dir)], capture_output=True, text=True, check=True
    )
    assert embedded.running_url(data_dir) == done.stdout.strip()


def test_running_stops_only_what_it_started(data_dir: Path) -> None:
    with embedded.running(data_dir) as url:
        with embedded.running(data_dir) as inner:
            assert inner == url
        assert embedded.running_url(data_dir) == url
    assert embedded.running_url(data_dir) is None


def test_processes_that_start_at_once_share_one_server(empty_dir: Path) -> None:
    code = "import sys, pathlib; from gateway.ledger import embedded; print(embedded.start(pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(empty_dir)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    urls = {process.communicate(timeout=60)[0] for process in processes}
    assert len(urls) == 1
    assert len([pid for pid in postmaster.orphans(empty_dir / "pg") if pid == pid_of(empty_dir)]) == 1


def test_it_comes_back_after_kill_9_of_all_its_processes(data_dir: Path) -> None:
    embedded.start(data_dir)
    kill_server(data_dir)
    assert (data_dir / "pg" / "postmaster.pid").exists()
    assert run(embedded.start(data_dir), "SELECT answer FROM kept") == 42


def test_it_comes_back_after_kill_9_of_the_postmaster_alone(data_dir: Path) -> None:
    embedded.start(data_dir)
    os.kill(pid_of(data_dir), signal.SIGKILL)
    assert run(embedded.start(data_dir), "SELECT answer FROM kept") == 42


def test_it_comes_back_when_another_process_wears_the_old_pid(data_dir: Path) -> None:
    embedded.start(data_dir)
    kill_server(data_dir)
    account = (
        server_account().subprocess_arguments()
    )  # as the same user: Postgres itself would refuse to start
    with subprocess.Popen(["/bin/sleep", "600"], **account) as stranger:
        for lock in (data_dir / "pg" / "postmaster.pid", data_dir / "pg" / ".s.PGSQL.5432.lock"):
            _, rest = lock.read_text().split("\n", 1)
            lock.write_text(f"{stranger.pid}\n{rest}")
        assert embedded.running_url(data_dir) is None
        embedded.stop(data_dir)  # must not touch the stranger
        assert run(embedded.start(data_dir), "SELECT answer FROM kept") == 42
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize("name", ["with spaces & umlauts äö", "x" * 150], ids=["unusual", "long"])
def test_any_path_will_do(empty_dir: Path, name: str) -> None:
    folder = empty_dir / name
    with embedded.running(folder) as url:
        assert run(url, "SELECT 1") == 1
    assert (folder / "pg" / "PG_VERSION").exists()
    socket_dir = Path(str(make_url(url).query["host"]))
    assert (
        not socket_dir.exists()
    )  # the folder of a socket that did not fit beside its data goes with the server


def test_a_folder_that_is_no_database_is_left_alone(empty_dir: Path) -> None:
    (empty_dir / "pg").mkdir()
    (empty_dir / "pg" / "thesis.txt").write_text("precious")
    with pytest.raises(EmbeddedPostgresError, match="no Postgres data directory"):
        embedded.start(empty_dir)
    assert (empty_dir / "pg" / "thesis.txt").read_text() == "precious"


def test_a_database_of_another_version_is_left_alone(empty_dir: Path) -> None:
    (empty_dir / "pg").mkdir()
    (empty_dir / "pg" / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedPostgresError, match="made by Postgres 16"):
        embedded.start(empty_dir)


def test_an_interrupted_first_start_is_begun_again(empty_dir: Path) -> None:
    (empty_dir / "pg.initializing").mkdir()
    (empty_dir / "pg.initializing" / "PG_VERSION").write_text("18\n")
    assert run(embedded.start(empty_dir), "SELECT 1") == 1
    assert not (empty_dir / "pg.initializing").exists()


def test_a_server_that_cannot_start_says_why_with_the_end_of_its_log(data_dir: Path) -> None:
    with (data_dir / "pg" / "postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")
    with pytest.raises(EmbeddedPostgresError, match="no_such_setting"):
        embedded.start(data_dir)


def test_a_data_directory_that_cannot_be_made_is_explained(empty_dir: Path) -> None:
    (empty_dir / "file").touch()
    with pytest.raises(EmbeddedPostgresError, match="cannot be started in"):
        embedded.start(empty_dir / "file")
