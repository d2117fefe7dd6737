"""Recorded calls of a span, oldest first, in chunks: what replaying them under another policy needs of the ledger.

In: an engine and a span of time. Out: `RecordedCall`s with their attempts and how their task ended. Chunks follow the
primary key, so that neither a sort nor more than one chunk is ever held, here or in Postgres.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.ledger.partitions import uuid_floor

CHUNK = 500
_WHERE = "id >= :lower AND id < :upper"
_SKIP = f"SELECT id FROM exchanges WHERE {_WHERE} ORDER BY id DESC OFFSET :limit LIMIT 1"
_COUNT = f"SELECT count(*) FROM exchanges WHERE {_WHERE}"
# a task that no caller named, but the ledger found, was unknown to the decision
_CALLS = """
SELECT id, extract(epoch FROM started_at)::float8 AS started_at, caller, endpoint, model_asked, workflow,
    CASE WHEN task_id ~ '^req_[0-9a-f]{32}$' THEN NULL ELSE task_id END AS task_id,
    shape, shape_source, policy_hash, status, stream, ttft_s, total_s, input_tokens, cost_usd::float8 AS cost_usd,
    error_code, timed_out, finish_reason, cache, (decision->>'draw')::float8 AS draw,
    (decision->>'expected_output_tokens')::int AS expected_output_tokens, decision->'timeouts' AS timeouts,
    decision->>'role' AS role,
    jsonb_path_query_array(decision, '$.candidates[*].target') AS candidates,
    decision->'rejections' AS rejections
FROM exchanges WHERE id > :after AND id < :upper ORDER BY id LIMIT :size
"""
# attempts come after their exchange and within its deadlines: two days keep the search to few partitions
_ATTEMPTS = """
SELECT exchange_id, extract(epoch FROM started_at)::float8 AS started_at, target, result, http_status, ttft_s,
    total_s, output_tokens, cost_usd::float8 AS cost_usd, role IS NOT NULL AS is_shadow
FROM attempts WHERE exchange_id = ANY (:ids)
AND id >= uuid_floor(CAST(:first AS timestamptz) - interval '1 hour')
AND id < uuid_floor(CAST(:last AS timestamptz) + interval '2 days')
ORDER BY exchange_id, ordinal
"""
_ENDS = """
SELECT caller, task_id, status FROM tasks
JOIN unnest(CAST(:callers AS text[]), CAST(:tasks AS text[])) AS asked (caller, task_id) USING (caller, task_id)
"""


@dataclass(frozen=True, slots=True)
class RecordedAttempt:
    """One upstream try, as `attempts` has it. Times in seconds, `started_at` since 1970."""

    started_at: float
    target: str
    result: Any  # a `router.outcome.Result`
    http_status: int | None
    ttft_s: float | None
    total_s: float
    output_tokens: int | None
    cost_usd: float | None
    is_shadow: bool  # sent on trial, beside the call


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One exchange, as far as it was decided. `candidates` are in the order of trying."""

    id: UUID
    started_at: float  # Unix seconds
    caller: str
    endpoint: str
    model_asked: str | None
    task_id: str | None  # as its caller named it
    workflow: str | None
    shape: str | None
    shape_source: str | None
    policy_hash: str | None
    status: int
    stream: bool
    ttft_s: float | None
    total_s: float
    input_tokens: int | None
    cost_usd: float | None
    error_code: str | None
    timed_out: str | None
    finish_reason: str | None
    cache: str | None
    draw: float | None
    expected_output_tokens: int | None
    timeouts: dict[str, float] | None
    role: str | None  # in its task, where it counted in the decision
    candidates: tuple[str, ...]
    rejections: tuple[tuple[str, str], ...]  # target, reason
    attempts: tuple[RecordedAttempt, ...]
    task_status: str | None  # how its task stands, where its caller named it


@dataclass(frozen=True, slots=True)
class Span:
    """What is to be read: keys in [lower, upper), `calls` of them; `is_cut` where older ones were left out."""

    lower: UUID
    upper: UUID
    calls: int
    is_cut: bool

    @property
    def since(self) -> datetime:
        return datetime.fromtimestamp((self.lower.int >> 80) / 1000, UTC)


async def span(engine: AsyncEngine, since: datetime, until: datetime, limit: int) -> Span:
    """The newest `limit` calls between two moments."""
    bounds = {"lower": uuid_floor(since), "upper": uuid_floor(until)}
    async with engine.connect() as connection:
        last_left_out = await connection.scalar(text(_SKIP), bounds | {"limit": limit})
        if last_left_out is not None:
            bounds["lower"] = UUID(int=last_left_out.int + 1)
        calls = await connection.scalar(text(_COUNT), bounds)
    return Span(bounds["lower"], bounds["upper"], calls or 0, last_left_out is not None)


async def calls(
    engine: AsyncEngine, lower: UUID, upper: UUID, chunk: int = CHUNK
) -> AsyncIterator[list[RecordedCall]]:
    """Every exchange with a key in [lower, upper), a chunk at a time."""
    after = UUID(int=lower.int - 1)
    async with engine.connect() as connection:
        while True:
            where = {"after": after, "upper": upper, "size": chunk}
            rows = [dict(row) for row in (await connection.execute(text(_CALLS), where)).mappings()]
            if not rows:
                return
            after = rows[-1]["id"]
            yield await _whole(connection, rows)


async def _whole(connection: AsyncConnection, rows: list[dict[str, Any]]) -> list[RecordedCall]:
    tries: dict[UUID, list[RecordedAttempt]] = {row["id"]: [] for row in rows}
    moments = [datetime.fromtimestamp(row["started_at"], UTC) for row in rows]
    where = {"ids": list(tries), "first": min(moments), "last": max(moments)}
    for row in (await connection.execute(text(_ATTEMPTS), where)).mappings():
        values = dict(row)
        tries[values.pop("exchange_id")].append(RecordedAttempt(**values))
    ends = await _task_ends(connection, {(row["caller"], row["task_id"]) for row in rows if row["task_id"]})
    return [
        RecordedCall(
            **row
            | {
                "candidates": tuple(row["candidates"] or ()),
                "rejections": tuple((it["target"], it["reason"]) for it in row["rejections"] or ()),
            },
            attempts=tuple(tries[row["id"]]),
            task_status=ends.get((row["caller"], row["task_id"])),
        )
        for row in rows
    ]


async def _task_ends(connection: AsyncConnection, tasks: set[tuple[str, str]]) -> dict[Any, str]:
    if not tasks:
        return {}
    where = {"callers": [caller for caller, _ in tasks], "tasks": [task for _, task in tasks]}
    return {(row[0], row[1]): row[2] for row in await connection.execute(text(_ENDS), where)}
