"""What lies on disk is for its owner, whatever the umask allows; and the embedded Postgres has no port."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
from sqlalchemy import make_url

from gateway.ledger.spool import Spool
from gateway.supervise.lock import DataDirLock
from gateway.supervise.logs import PartLog
from tests.conftest import PostgresServer

OTHERS = 0o077


def test_nobody_else_reads_spool_logs_and_run_files(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        spool = Spool(tmp_path / "spool", "worker-0", 10**6)
        spool.append({"kind": "price"})
        spool.close()
        DataDirLock(tmp_path / "run" / "up.lock").close()
        PartLog(tmp_path / "logs", "gateway").open().close()
    finally:
        os.umask(before)
    made = [path for path in tmp_path.rglob("*") if path.parent == tmp_path]
    assert {path.name for path in made} == {"spool", "logs", "run"}
    assert [path for path in made if path.stat().st_mode & OTHERS] == []
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_mode & OTHERS] == []


def test_the_embedded_postgres_is_a_socket_in_a_private_folder(postgres: PostgresServer) -> None:
    where = make_url(postgres.url).query
    folder = Path(str(where["host"]))
    assert folder.is_dir()
    assert folder.stat().st_mode & OTHERS == 0
    assert (postgres.data_dir / "pg").stat().st_mode & OTHERS == 0
    with psycopg.connect(
        host=str(where["host"]), port=int(str(where["port"])), user="postgres"
    ) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
