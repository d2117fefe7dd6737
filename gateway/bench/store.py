"""Benchmark runs in Postgres: written once, whole, and read back; and what the ledger says its calls cost.

In: a database URL and JSON values. Out: rows of `bench_runs`. Raises what the database raises.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Select, Text, any_, bindparam, cast, insert, select
from sqlalchemy.dialects import postgresql

from gateway.ledger import tables
from gateway.ledger.database import create_engine
from gateway.ledger.records import uuid7

_PATIENCE_S = 3.0  # a call's record takes about a second from the spool to the database


def save(url: str, kind: str, started_at: datetime, settings: Any, results: Any) -> UUID:
    """The id of the row written."""
    engine, run_id = create_engine(url, application="sparkgate bench"), uuid7()
    row = {"id": run_id, "kind": kind, "started_at": started_at, "settings": settings, "results": results}
    try:
        with engine.begin() as connection:
            connection.execute(insert(tables.bench_runs), row)
    finally:
        engine.dispose()
    return run_id


def find(url: str, name: str, kind: str | None = None) -> list[dict[str, Any]]:
    """Rows of `bench_runs`: `latest`, `latest~N` (N before it), or the newest two whose id begins so."""
    key, query = tables.bench_runs.c.id, select(tables.bench_runs)
    if back := re.fullmatch(r"latest(?:~(\d{1,6}))?", name):
        return _newest_of(url, kind, query.offset(int(back[1] or 0)).limit(1))
    begins_so = cast(key, Text).startswith(name.lower(), autoescape=True)
    return _newest_of(url, kind, query.where(begins_so).limit(2))


def newest(url: str, kind: str | None, limit: int) -> list[dict[str, Any]]:
    """The newest runs without their results: id, kind, started_at, settings."""
    runs = tables.bench_runs.c
    return _newest_of(url, kind, select(runs.id, runs.kind, runs.started_at, runs.settings).limit(limit))


def _newest_of(url: str, kind: str | None, query: Select[Any]) -> list[dict[str, Any]]:
    runs, engine = tables.bench_runs.c, create_engine(url, application="sparkgate bench")
    query = query.order_by(runs.started_at.desc(), runs.id.desc())
    if kind is not None:
        query = query.where(runs.kind == kind)
    try:
        with engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]
    finally:
        engine.dispose()


def costs_usd(url: str, request_ids: Iterable[str]) -> dict[str, float]:
    """Dollars by request id, of the calls that are recorded by now and have a known cost."""
    wanted = {UUID(written.removeprefix("req_")): written for written in request_ids}
    exchanges, engine = tables.exchanges, create_engine(url, application="sparkgate bench")
    keys = bindparam("keys", list(wanted), type_=ARRAY(postgresql.UUID(as_uuid=True)))
    query = select(exchanges.c.id, exchanges.c.cost_usd).where(exchanges.c.id == any_(keys))
    give_up_at = time.monotonic() + _PATIENCE_S
    try:
        while True:
            with engine.connect() as connection:
                rows = connection.execute(query).all()
            if len(rows) == len(wanted) or time.monotonic() > give_up_at:
                return {wanted[key]: float(cost) for key, cost in rows if cost is not None}
            time.sleep(0.2)
    finally:
        engine.dispose()
