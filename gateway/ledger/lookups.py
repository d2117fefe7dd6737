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

from gateway.ledger.records import SHADOW, request_id
from gateway.ledger.tasks import Task

MAX_CALLS = 1000  # of a task that are listed
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
caller, task_id, workflow,
CASE WHEN status = 'open' AND silent_until < now() THEN 'abandoned' ELSE status END AS status,
outcome, score, outcome_at, verdict, shape, target, first_seen_at, last_at, calls AS exchanges, attempts, cost_usd,
unpriced AS attempts_of_unknown_cost, input_tokens, output_tokens, spent
"""
_TASK = f"""
SELECT {_SUMMARY} FROM tasks WHERE task_id = :task_id AND {_MINE} ORDER BY first_seen_at DESC LIMIT 1
"""
_RECENT = f"""
SELECT {_SUMMARY} FROM tasks WHERE {_MINE} AND (CAST(:workflow AS text) IS NULL OR workflow = :workflow)
ORDER BY first_seen_at DESC, task_id LIMIT :limit
"""
_CALLS = """
SELECT id FROM exchanges WHERE caller = :caller AND task_id = :task_id
AND id >= uuid_floor(CAST(:first_seen_at AS timestamptz) - interval '1 hour')
AND id < uuid_floor(CAST(:last_at AS timestamptz) + interval '1 hour')
ORDER BY id LIMIT :limit
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
    """One task: how it stands and what it cost, its calls and its outcomes in order. For caller None the newest of that
    id. The request id of any of its calls names it too.

    `cost_usd` is over all attempts whose cost is known; `attempts_of_unknown_cost` counts the others. None: no such
    one, or another caller's.
    """
    async with engine.connect() as connection:
        where = {"caller": caller, "task_id": task_id}
        row = (await connection.execute(text(_TASK), where)).mappings().first()
        if row is not None:
            return await _whole(connection, row)
    call = await _call_named(engine, task_id, caller)
    if call is None:
        return None
    if call["task_id"] != task_id and call["task_id"] is not None:
        return await task(engine, call["caller"], call["task_id"])
    return _of_one_call(call)


async def _call_named(engine: AsyncEngine, name: str, caller: str | None) -> dict[str, Any] | None:
    try:
        return await exchange(engine, UUID(name.removeprefix("req_")), caller)
    except ValueError:
        return None


async def _whole(connection: AsyncConnection, row: RowMapping) -> dict[str, Any]:
    where = {name: row[name] for name in ("caller", "task_id")}
    span = {name: row[name] for name in ("first_seen_at", "last_at")} | {"limit": MAX_CALLS}
    keys = (await connection.scalars(text(_CALLS), where | span)).all()
    history = (await connection.execute(text(_OUTCOMES), where)).mappings().all()
    request_ids = [request_id(str(key)) for key in keys]
    return _summary(row) | {"request_ids": request_ids, "outcomes": [*map(_ready, history)]}


def _of_one_call(call: dict[str, Any]) -> dict[str, Any]:
    """A task that is one call and was ended by it, of which nobody reported anything."""
    task = Task(call["caller"], request_id(call["id"]))
    attempts = [
        attempt | {"cost_usd": None if (cost := attempt["cost_usd"]) is None else f"{cost:.9f}"}
        for attempt in call["attempts"]
    ]
    task.add_call({"exchange": call, "attempts": attempts})
    names = ("caller", "workflow", "shape", "target", "verdict", "attempts", "input_tokens", "output_tokens")
    return {name: getattr(task, name) for name in names} | {
        "task_id": call["task_id"] or task.task_id,
        "status": task.verdict or "open",
        **dict.fromkeys(("outcome", "score", "outcome_at")),
        "first_seen_at": task.first_seen_at.isoformat(),
        "last_at": task.last_at.isoformat(),
        "exchanges": 1,
        "cost_usd": task.cost_nusd / 1e9,
        "attempts_of_unknown_cost": task.unpriced,
        "cost_by_target": _by_target(task.spent),
        "request_ids": [call["request_id"]],
        "outcomes": [],
    }


async def recent_tasks(
    engine: AsyncEngine, caller: str | None, limit: int = 50, workflow: str | None = None
) -> list[dict[str, Any]]:
    """Newest first, each as `task` gives it, less its calls and its history. Calls that are a task of their own and
    ended it are not among them."""
    async with engine.connect() as connection:
        where = {"caller": caller, "limit": limit, "workflow": workflow}
        rows = (await connection.execute(text(_RECENT), where)).mappings().all()
    return [_summary(row) for row in rows]


def _summary(row: RowMapping) -> dict[str, Any]:
    summary = _ready(row)
    return summary | {"cost_by_target": _by_target(summary.pop("spent"))}


def _by_target(spent: dict[str, list[int]]) -> dict[str, float]:
    """Dollars."""
    return {target: nusd / 1e9 for target, (_, nusd, _) in sorted(spent.items())}


def _ready(row: RowMapping) -> dict[str, Any]:
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else value
