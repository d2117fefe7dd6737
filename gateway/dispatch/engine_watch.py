"""Every self-hosted target's state once a second, so that routing knows its queue and pace; a sample for the dashboard.

In: where their states are read. Out: the fleet's `EngineState`s, and with a database every 10 s a row of
`engine_samples` and what the engine's time up has cost. An engine of ours that does not answer is taken out of routing;
of another server the state is then unknown, and no more.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.ledger.engine_hours import UpTime
from gateway.ledger.engine_samples import record_engine_sample
from gateway.upstreams.engine_sources import Source
from router.fleet import EngineState, Fleet

log = logging.getLogger(__name__)
INTERVAL_S = 1.0
SAMPLE_EVERY_S = 10.0
KNOWN_FOR_S = 10.0  # the last state of a server that tells none just now: a busy one may be late


class EngineWatch:
    """One worker's view of its engines; `step` every `INTERVAL_S`. `database` None = another worker keeps samples."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        fleet: Fleet,
        database: AsyncEngine | None,
        up_times: Mapping[str, UpTime] | None = None,
    ) -> None:
        """`up_times`: of the engines whose time is counted."""
        self._sources, self._fleet, self._database = sources, fleet, database
        self._up_times = up_times or {}
        self._sampled_s = dict.fromkeys(sources, -SAMPLE_EVERY_S)
        self._told_s = dict.fromkeys(sources, -math.inf)
        self.problems: dict[str, str] = {}  # by target: why its state is unknown, or what is wrong with it

    async def step(self) -> None:
        await asyncio.gather(*(self._look_at(name, source) for name, source in self._sources.items()))

    async def _look_at(self, name: str, source: Source) -> None:
        look = await source.look(time.monotonic())
        now, value = time.monotonic(), look.state
        state = _engine_state(value)
        if state is not None:
            self._told_s[name] = now
        if source.is_needed:
            self._fleet.set_engine(name, state, now)
        elif state is not None or now - self._told_s[name] > KNOWN_FOR_S:
            self._fleet.health(name).engine = state
        self._note(name, look.problem)
        up_time = self._up_times.get(name)
        if up_time is not None and look.is_up is not None:
            up_time.look(look.is_up, datetime.now(UTC))
        if value is not None and self._database is not None and now - self._sampled_s[name] >= SAMPLE_EVERY_S:
            self._sampled_s[name] = now
            await _keep(self._database, name, value, up_time)

    def _note(self, name: str, problem: str | None) -> None:
        if problem is None:
            self.problems.pop(name, None)
        elif self.problems.get(name) != problem:
            self.problems[name] = problem
            log.warning("state of target %s: %s", name, problem)


def _engine_state(value: dict[str, Any] | None) -> EngineState | None:
    """None when the engine is gone or speaks something else."""
    if value is None:
        return None
    try:
        speculation = value.get("speculation") or {}
        shapes = speculation.get("by", {}).get("shape", {})
        context_tokens = value.get("max_context_tokens")
        return EngineState(
            running=int(value["running"]),
            waiting=int(value["waiting"]),
            max_batch=max(1, int(value["max_batch"])),
            max_context_tokens=None if context_tokens is None else int(context_tokens),
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
