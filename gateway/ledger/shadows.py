"""What shadow attempts have cost, by the task shape of the exchanges that they were made beside.

In: an async connection, a day. Out: nano-dollars. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_COSTS = """
SELECT exchange.shape, CAST(sum(shadow.cost_usd) * 1000000000 AS bigint), bool_or(shadow.cost_usd IS NULL),
    array_agg(shadow.id) FILTER (WHERE shadow.id = ANY (:asked))
FROM attempts shadow JOIN exchanges exchange ON exchange.id = shadow.exchange_id
WHERE shadow.role = 'shadow'
AND shadow.id >= uuid_floor(:start) AND shadow.id < uuid_floor(CAST(:start AS timestamptz) + interval '1 day')
AND exchange.id >= uuid_floor(CAST(:start AS timestamptz) - interval '1 day')
GROUP BY 1
"""


@dataclass(frozen=True, slots=True)
class ShadowCosts:
    """Nano-dollars by task shape (None = that of some attempt is unknown), and which of the attempts asked for are
    in them."""

    nusd: Mapping[str, int | None]
    found: frozenset[UUID]


async def shadow_costs(connection: AsyncConnection, day: date, asked: Sequence[UUID]) -> ShadowCosts:
    """Of the shadows begun on that day (UTC)."""
    start = datetime.combine(day, time(), UTC)
    rows = (await connection.execute(text(_COSTS), {"start": start, "asked": list(asked)})).all()
    nusd = {shape: None if is_unknown else total for shape, total, is_unknown, _ in rows}
    return ShadowCosts(nusd, frozenset(key for *_, found in rows for key in found or ()))
