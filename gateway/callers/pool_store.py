"""Pools of limits and the workers that share them, in Postgres.

In: an async connection inside a transaction of the caller. Out: `Stored` pools, which worker is there, the time by
the database's clock, so that clocks of hosts need not agree. A pool is written only where nobody else has written it
since it was read: no transaction holds a lock while a worker thinks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.callers.pools import Pool, Slice, Workers

PRESENT_S = 2.5  # who was not heard for longer is cut off, or dead
MISSED_S = 60.0  # and counts as cut off for so long
FORGET_S = 60.0  # pools that no worker has touched for longer
Name = tuple[str, str]  # the caller's and the limit's

_SEEN = """
INSERT INTO quota_workers (id, place) VALUES (:id, :place)
ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp()
"""
_WORKERS = """
SELECT id, seen_at > clock_timestamp() - make_interval(secs => :present_s) FROM quota_workers
WHERE seen_at > clock_timestamp() - make_interval(secs => :missed_s)
"""
_READ = """
SELECT extract(epoch FROM clock_timestamp())::float8, version, pool
FROM unnest(CAST(:callers AS text[]), CAST(:kinds AS text[])) WITH ORDINALITY AS asked (caller, kind, number)
LEFT JOIN quota_pools USING (caller, kind) ORDER BY number
"""
_WRITE = """
INSERT INTO quota_pools (caller, kind, version, pool)
SELECT * FROM unnest(
    CAST(:callers AS text[]), CAST(:kinds AS text[]), CAST(:versions AS bigint[]), CAST(:pools AS jsonb[])
) ORDER BY 1, 2
ON CONFLICT (caller, kind) DO UPDATE SET version = excluded.version, pool = excluded.pool, at = excluded.at
WHERE quota_pools.version = excluded.version - 1
RETURNING caller, kind
"""
_CLOSE = "DELETE FROM quota_pools WHERE caller = :caller AND kind = :kind AND version = :version"
_LOOK = """
SELECT caller, kind, version, pool, extract(epoch FROM clock_timestamp())::float8 FROM quota_pools
WHERE CAST(:within_s AS float8) IS NULL OR opened_at > clock_timestamp() - make_interval(secs => :within_s)
"""


class Stored(NamedTuple):
    """A pool as it was read; version 0: there is none."""

    version: int
    pool: Pool | None


async def appear(connection: AsyncConnection, worker: str, place: str) -> None:
    """A new worker, in the stead of any that was there before."""
    await connection.execute(text("DELETE FROM quota_workers WHERE place = :place"), {"place": place})
    await seen(connection, worker, place)


async def seen(connection: AsyncConnection, worker: str, place: str) -> None:
    await connection.execute(text(_SEEN), {"id": worker, "place": place})


async def disappear(connection: AsyncConnection, worker: str) -> None:
    await connection.execute(text("DELETE FROM quota_workers WHERE id = :id"), {"id": worker})


async def workers(connection: AsyncConnection) -> Workers:
    rows = await connection.execute(text(_WORKERS), {"present_s": PRESENT_S, "missed_s": MISSED_S})
    found = {str(name): bool(is_present) for name, is_present in rows}
    present = tuple(name for name, is_present in found.items() if is_present)
    return Workers(present, tuple(name for name, is_present in found.items() if not is_present))


async def read(connection: AsyncConnection, names: Sequence[Name]) -> tuple[float, list[Stored]]:
    """The time in Unix seconds, and the pools in the order of `names`, of which there is at least one."""
    rows = list(await connection.execute(text(_READ), _columns(names)))
    return rows[0][0], [Stored(version or 0, _pool(value)) for _, version, value in rows]


async def write(connection: AsyncConnection, changed: Mapping[Name, Stored]) -> set[Name]:
    """Those that were written: `version` is what was read, and nobody else has changed them since."""
    versions = [stored.version + 1 for stored in changed.values()]
    pools = [orjson.dumps(stored.pool).decode() for stored in changed.values()]
    values = _columns(list(changed)) | {"versions": versions, "pools": pools}
    return {(caller, kind) for caller, kind in await connection.execute(text(_WRITE), values)}


async def close(connection: AsyncConnection, name: Name, version: int) -> None:
    """Unless somebody has used it since."""
    caller, kind = name
    await connection.execute(text(_CLOSE), {"caller": caller, "kind": kind, "version": version})


async def look(connection: AsyncConnection, within_s: float | None) -> tuple[float, dict[Name, Stored]]:
    """The time in Unix seconds, and all pools, or those opened within this time."""
    rows = list(await connection.execute(text(_LOOK), {"within_s": within_s}))
    pools = {(caller, kind): Stored(version, _pool(value)) for caller, kind, version, value, _ in rows}
    return (rows[0][-1] if rows else 0.0), pools


async def clear(connection: AsyncConnection) -> None:
    """For a worker that is alone from now on."""
    await connection.execute(text("DELETE FROM quota_pools"))


async def forget(connection: AsyncConnection) -> None:
    """Deletes what workers have left that are no more."""
    age = {"forget_s": FORGET_S, "missed_s": MISSED_S}
    await connection.execute(
        text("DELETE FROM quota_pools WHERE at < now() - make_interval(secs => :forget_s)"), age
    )
    await connection.execute(
        text("DELETE FROM quota_workers WHERE seen_at < now() - make_interval(secs => :missed_s)"), age
    )


def _columns(names: Sequence[Name]) -> dict[str, Any]:
    return {"callers": [caller for caller, _ in names], "kinds": [kind for _, kind in names]}


def _pool(value: Any) -> Pool | None:
    if value is None:
        return None
    slices = {name: Slice(**one) for name, one in value["slices"].items()}
    return Pool(**(value | {"slices": slices}))
