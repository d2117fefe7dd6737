"""Reads single exchanges and tasks back, as values ready for JSON. A caller sees its own; caller None sees
all.

In: an engine and ids. Out: plain dicts: times as ISO 8601, costs as numbers of dollars, ids as text.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.ledger.records import SHADOW

_MINE = "(CAST(:caller AS text) IS NULL OR caller = :caller)"
_EXCHANGE = f"SELECT * FROM exchanges WHERE id = :id AND {_MINE}"
# attempts come after their exchange and within its deadlines: two days keep the search to few partitions
_ATTEMPTS = """
SELECT * FROM attempts WHERE exchange_id = :id
AND id >= uuid_floor(CAST(:started_at AS timestamptz) - interval '1 hour')
AND id < uuid_floor(CAST(:started_at AS timestamptz) + interval '2 days')
ORDER BY ordinal
"""
_SUMMARY = """
SELECT task.caller, task.task_id, task.workflow, task.first_seen_at, last_outcome.status, last_outcome.score,
    calls.*, tries.*
FROM task
LEFT JOIN LATERAL (
    SELECT count(*) AS exchanges, max(started_at) AS last_exchange_at,
        coalesce(sum(input_tokens), 0) AS input_tokens, coalesce(sum(output_tokens), 0) AS output_tokens,
        array_agg(id) AS ids
    FROM exchanges WHERE caller = task.caller AND task_id = task.task_id
    AND id >= uuid_floor(task.first_seen_at - interval '1 hour')
) calls ON true
LEFT JOIN LATERAL (
    SELECT count(*) AS attempts, coalesce(sum(cost_usd), 0) AS cost_usd,
        count(*) FILTER (WHERE cost_usd IS NULL) AS attempts_of_unknown_cost
    FROM attempts WHERE exchange_id = ANY (calls.ids) AND role IS NULL
    AND id >= uuid_floor(task.first_seen_at - interval '1 hour')
    AND id < uuid_floor(calls.last_exchange_at + interval '2 days')
) tries ON true
LEFT JOIN LATERAL (
    SELECT status, score FROM outcomes WHERE caller = task.caller AND task_id = task.task_id
    ORDER BY reported_at DESC, id DESC LIMIT 1
) last_outcome ON true
ORDER BY task.first_seen_at DESC, task.task_id
"""
_TASK = f"WITH task AS (SELECT * FROM tasks WHERE task_id = :task_id AND {_MINE}) {_SUMMARY} LIMIT 1"
_RECENT = f"""
WITH task AS (
    SELECT * FROM tasks WHERE {_MINE} AND (CAST(:workflow AS text) IS NULL OR workflow = :workflow)
    ORDER BY first_seen_at DESC LIMIT :limit
) {_SUMMARY}
"""
_OUTCOMES = """
SELECT status, score, workflow, reported_at FROM outcomes
WHERE caller = :caller AND task_id = :task_id ORDER BY reported_at, id
"""


async def exchange(engine: AsyncEngine, exchange_id: UUID, caller: str | None) -> dict[str, Any] | None:
    """One exchange with its decision, every attempt in order, and `shadows`, attempts that were made on trial only.

    None: no such one, or another caller's.
    """
    async with engine.connect() as connection:
        which = {"id": exchange_id, "caller": caller}
        row = (await connection.execute(text(_EXCHANGE), which)).mappings().first()
        if row is None:
            return None
        where = {"id": exchange_id, "started_at": row["started_at"]}
        attempts = (await connection.execute(text(_ATTEMPTS), where)).mappings().all()
    found = {"request_id": f"req_{exchange_id.hex}"} | _ready(row)
    found["attempt_count"] = found["attempts"]
    made = [_ready(attempt) for attempt in attempts]
    found["attempts"] = [attempt for attempt in made if attempt["role"] is None]
    found["shadows"] = [attempt for attempt in made if attempt["role"] == SHADOW]
    return found


async def task(engine: AsyncEngine, caller: str | None, task_id: str) -> dict[str, Any] | None:
    """One task: what its exchanges were and cost, its outcomes in order. For caller None the newest of that
    id.

    `cost_usd` is over all attempts whose cost is known; `attempts_of_unknown_cost` counts the others.
    """
    async with engine.connect() as connection:
        where = {"caller": caller, "task_id": task_id}
        row = (await connection.execute(text(_TASK), where)).mappings().first()
        if row is None:
            return None
        history = await _outcomes(connection, row["caller"], task_id)
    return _summary(row) | {
        "request_ids": [f"req_{key.hex}" for key in row["ids"] or ()],
        "outcomes": history,
    }


async def recent_tasks(
    engine: AsyncEngine, caller: str | None, limit: int = 50, workflow: str | None = None
) -> list[dict[str, Any]]:
    """Newest first, each as `task` gives it, less its ids and its history."""
    async with engine.connect() as connection:
        where = {"caller": caller, "limit": limit, "workflow": workflow}
        rows = (await connection.execute(text(_RECENT), where)).mappings().all()
    return [_summary(row) for row in rows]


async def _outcomes(connection: AsyncConnection, caller: str, task_id: str) -> list[dict[str, Any]]:
    where = {"caller": caller, "task_id": task_id}
    return [_ready(row) for row in (await connection.execute(text(_OUTCOMES), where)).mappings()]


def _summary(row: RowMapping) -> dict[str, Any]:
    return {name: value for name, value in _ready(row).items() if name != "ids"}


def _ready(row: RowMapping) -> dict[str, Any]:
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else value
