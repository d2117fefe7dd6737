"""What callers have used, as the database knows it: the table `quota_usage`, which the drain adds to.

In: an async connection, a day. Out: nano-dollars by caller, and rows ready for JSON. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.callers.spending import Snapshot, Spent, as_date, month_of
from gateway.ledger.tables import exchanges

_SPENT = """
SELECT caller, CAST(coalesce(sum(cost_usd) FILTER (WHERE day = :day), 0) * 1000000000 AS bigint),
    CAST(sum(cost_usd) * 1000000000 AS bigint)
FROM quota_usage WHERE day BETWEEN :month AND :day
"""
_WITH_BUDGET = """
AND caller IN (SELECT name FROM api_keys WHERE revoked_at IS NULL AND num_nonnulls(daily_usd, monthly_usd) > 0)
"""
_BY_DAY = """
SELECT day::text, caller, calls, tokens, cost_usd::float8, attempts_of_unknown_cost
FROM quota_usage WHERE day >= :since ORDER BY quota_usage.day DESC, caller
"""


async def spent(conn: AsyncConnection, day: int, *, with_budget_only: bool = False) -> dict[str, Spent]:
    """By caller, on `day` (counted from 1970) and in its month up to then."""
    query = _SPENT + (_WITH_BUDGET if with_budget_only else "") + "GROUP BY caller"
    rows = await conn.execute(text(query), {"day": as_date(day), "month": as_date(month_of(day))})
    return {caller: Spent(today, this_month) for caller, today, this_month in rows}


async def snapshot(conn: AsyncConnection, day: int, asked: Sequence[UUID]) -> Snapshot:
    """What callers with a budget have spent, and which of the exchanges asked for are in that for certain."""
    found = await conn.scalars(select(exchanges.c.id).where(exchanges.c.id.in_(asked)))
    found_before = frozenset(found)  # read first: what is found here is in the sums read after it
    return Snapshot(day, await spent(conn, day, with_budget_only=True), found_before)


async def by_day(conn: AsyncConnection, since: date) -> list[dict[str, Any]]:
    """Every caller's days from `since` on, newest first."""
    rows = await conn.execute(text(_BY_DAY), {"since": since})
    return [dict(row) for row in rows.mappings()]
