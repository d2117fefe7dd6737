"""Reads every engine's `/state` once a second, so that routing knows its queue; keeps a sample for the dashboard.

In: engine targets and their upstreams. Out: `Fleet.set_engine`, and with a database every 10 s a row of
`engine_samples`. An engine that does not answer is set to None, which takes it out of routing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.ledger.engine_samples import record_engine_sample
from gateway.upstreams.base import Unreachable
from gateway.upstreams.openai_http import HttpUpstream
from router.fleet import EngineState, Fleet

log = logging.getLogger(__name__)
INTERVAL_S = 1.0
ANSWER_WITHIN_S = 2.0
SAMPLE_EVERY_S = 10.0


async def watch_engines(
    engines: Mapping[str, HttpUpstream], fleet: Fleet, database: AsyncEngine | None
) -> None:
    """Runs until cancelled. `database` None = keep no samples (another worker does)."""
    async with asyncio.TaskGroup() as group:
        for name, upstream in engines.items():
            group.create_task(_watch(name, upstream, fleet, database))


async def _watch(name: str, upstream: HttpUpstream, fleet: Fleet, database: AsyncEngine | None) -> None:
    sampled_s = -SAMPLE_EVERY_S
    while True:
        value = await _state(upstream)
        now = time.monotonic()
        fleet.set_engine(name, _engine_state(value, now), now)
        if value is not None and database is not None and now - sampled_s >= SAMPLE_EVERY_S:
            sampled_s = now
            await _keep(database, name, value)
        await asyncio.sleep(INTERVAL_S)


async def _state(upstream: HttpUpstream) -> dict[str, Any] | None:
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            status, raw = await upstream.get("/state")
        value = orjson.loads(raw) if status == 200 else None
    except (Unreachable, TimeoutError, orjson.JSONDecodeError):
        return None
    return value if isinstance(value, dict) else None


def _engine_state(value: dict[str, Any] | None, now: float) -> EngineState | None:
    """None when the engine is gone or speaks something else."""
    if value is None:
        return None
    try:
        return EngineState(
            running=int(value["running"]),
            waiting=int(value["waiting"]),
            max_batch=max(1, int(value["max_batch"])),
            at_s=now,
            max_context_tokens=int(value["max_context_tokens"]),
            draining=bool(value.get("draining", False)),
        )
    except (KeyError, TypeError, ValueError):
        return None


async def _keep(database: AsyncEngine, name: str, value: dict[str, Any]) -> None:
    try:
        async with database.begin() as connection:
            await record_engine_sample(connection, name, value)
    except SQLAlchemyError as error:
        log.warning("engine sample of %s not stored: %s", name, type(error).__name__)
