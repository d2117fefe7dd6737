"""What workers tell each other of targets: one row a worker and second in `fleet_news`, read by all the others.

In: a connection inside a transaction of the caller. Out: `News` not read before, with its age by the database's
clock, so that clocks of hosts need not agree. Rows may become visible in another order than they were made in: a
reading looks at all of the last seconds and leaves out by key what it is told was seen.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.tables import fleet_news

READ_BACK_S = 10.0  # a transaction that took longer than this to commit its news is not heard
KEPT_S = 60.0
MAX_ROWS = 1000  # a reading; what is left waits for the next
_UNSEEN = """
SELECT id, extract(epoch FROM clock_timestamp() - at)::float8 AS age_s, digests FROM fleet_news
WHERE at > now() - make_interval(secs => :back_s) AND worker <> :reader AND id <> ALL (CAST(:seen AS uuid[]))
ORDER BY at LIMIT :limit
"""
_FORGET = """
DELETE FROM fleet_news WHERE id IN (
    SELECT id FROM fleet_news WHERE at < now() - make_interval(secs => :kept_s) FOR UPDATE SKIP LOCKED
)
"""


class News(NamedTuple):
    """What another worker published at once."""

    id: UUID
    age_s: float
    digests: Sequence[Mapping[str, Any]]


async def publish(connection: AsyncConnection, worker: UUID, digests: Sequence[Mapping[str, Any]]) -> None:
    await connection.execute(insert(fleet_news).values(id=uuid4(), worker=worker, digests=digests))


async def unseen(connection: AsyncConnection, reader: UUID, seen: Collection[UUID]) -> list[News]:
    """Oldest first. `seen` need not hold keys that were read more than READ_BACK_S ago."""
    where = {"back_s": READ_BACK_S, "reader": reader, "seen": list(seen), "limit": MAX_ROWS}
    return [News(*row) for row in await connection.execute(text(_UNSEEN), where)]


async def forget(connection: AsyncConnection) -> None:
    """Deletes old rows; several workers may do so at once."""
    await connection.execute(text(_FORGET), {"kept_s": KEPT_S})
