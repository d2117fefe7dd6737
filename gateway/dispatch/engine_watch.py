"""Every engine's `/state` once a second, so that routing knows its queue and pace; a sample for the dashboard.

In: engine targets and their upstreams. Out: `Fleet.set_engine`, and with a database every 10 s a row of
`engine_samples` and what the engine's time up has cost. An engine that does not answer is set to None, which takes
it out of routing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.ledger.engine_hours import UpTime
from gateway.ledger.engine_samples import record_engine_sample
from gateway.upstreams.base import Unreachable
from gateway.upstreams.openai_http import HttpUpstream
from router.fleet import EngineState, Fleet

log = logging.getLogger(__name__)
INTERVAL_S = 1.0
ANSWER_WITHIN_S = 2.0
SAMPLE_EVERY_S = 10.0


class EngineWatch:
    """One worker's view of its engines; `step` every `INTERVAL_S`. `database` None = another worker keeps samples."""

    def __init__(
        self,
        engines: Mapping[str, HttpUpstream],
        fleet: Fleet,
        database: AsyncEngine | None,
        up_times: Mapping[str, UpTime] | None = None,
    ) -> None:
        """`up_times`: of the engines whose time is counted."""
        self._engines, self._fleet, self._database = engines, fleet, database
        self._up_times = up_times or {}
        self._sampled_s = dict.fromkeys(engines, -SAMPLE_EVERY_S)

    async def step(self) -> None:
        await asyncio.gather(*(self._look_at(name) for name in self._engines))

    async def _look_at(self, name: str) -> None:
        value = await _state(self._engines[name])
        now = time.monotonic()
        self._fleet.set_engine(name, _engine_state(value), now)
        up_time = self._up_times.get(name)
        if up_time is not None:
            up_time.look(value is not None, datetime.now(UTC))
        if value is not None and self._database is not None and now - self._sampled_s[name] >= SAMPLE_EVERY_S:
            self._sampled_s[name] = now
            await _keep(self._database, name, value, up_time)


async def _state(upstream: HttpUpstream) -> dict[str, Any] | None:
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            status, raw = await upstream.get("/state")
        value = orjson.loads(raw) if status == 200 else None
    except (Unreachable, TimeoutError, orjson.JSONDecodeError):
        return None
    return value if isinstance(value, dict) else None


def _engine_state(value: dict[str, Any] | None) -> EngineState | None:
    """None when the engine is gone or speaks something else."""
    if value is None:
        return None
    try:
        speculation = value.get("speculation") or {}
        shapes = speculation.get("by", {}).get("shape", {})
        return EngineState(
            running=int(value["running"]),
            waiting=int(value["waiting"]),
            max_batch=max(1, int(value["max_batch"])),
            max_context_tokens=int(value["max_context_tokens"]),
            draining=bool(value.get("draining", False)),
            steps_per_s=_steps_per_s(value.get("steps_per_s", {})),
            accepted_length=_length(speculation),
            accepted_length_by_shape={shape: _length(figures) for shape, figures in shapes.items()},
            prefill_tokens_per_s=max(0.0, float(value.get("prefill_tokens_per_s") or 0.0)),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _length(figures: Mapping[str, Any]) -> float:
    """Tokens a step adds to an answer: one, where no other figure was measured."""
    return max(1.0, float(figures.get("accepted_length") or 1.0))


def _steps_per_s(value: Mapping[str, Any]) -> dict[int, float]:
    rates = {int(size): float(rate) for size, rate in value.items()}
    return {size: rate for size, rate in rates.items() if rate > 0.0}


async def _keep(database: AsyncEngine, name: str, value: dict[str, Any], up_time: UpTime | None) -> None:
    try:
        async with database.begin() as connection:
            await record_engine_sample(connection, name, value)
            if up_time is not None:
                await up_time.write(connection)
    except SQLAlchemyError as error:
        log.warning("engine sample of %s not stored: %s", name, type(error).__name__)
    else:
        if up_time is not None:
            up_time.written()
