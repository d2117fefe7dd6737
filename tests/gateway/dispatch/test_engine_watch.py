"""What an engine says of itself reaches the fleet and the ledger, and what the gateway tells an engine of a call."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from gateway.dispatch import engine_watch
from gateway.dispatch.engine_watch import EngineWatch
from gateway.ledger.database import create_async_engine
from gateway.ledger.engine_hours import UpTime
from gateway.upstreams.engine_sources import EngineSource
from gateway.upstreams.openai_http import HttpUpstream
from router.fleet import EngineState, Fleet
from tests.fakes import fake_upstream
from tests.gateway.conftest import HELLO, running_gateway

PLAIN: dict[str, Any] = {"running": 2, "waiting": 1, "max_batch": 8, "max_context_tokens": 4096}
SPECULATING = PLAIN | {
    "steps_per_s": {"1": 50.0, "2": 40.0},
    "speculation": {
        "accepted_length": 2.5,
        "by": {
            "shape": {"support": {"accepted_length": 3.25}},
            "context": {"<=256": {"accepted_length": 2.5}},
        },
    },
}


def seen(state: dict[str, Any] | None) -> EngineState | None:
    """What the fleet knows after one look at an engine that says this."""

    async def look() -> EngineState | None:
        async with fake_upstream() as engine:
            engine.state = state
            upstream, fleet = HttpUpstream(engine.url, api_key=None), Fleet()
            await EngineWatch({"engine": EngineSource(upstream)}, fleet, None).step()
            await upstream.close()
            return fleet.health("engine").engine

    return asyncio.run(look())


def test_the_pace_and_what_drafts_yield_are_taken_along() -> None:
    said = seen(SPECULATING)
    assert said is not None
    assert (said.running, said.waiting, said.max_batch, said.max_context_tokens) == (2, 1, 8, 4096)
    assert said.steps_per_s == {1: 50.0, 2: 40.0}
    assert said.accepted_length == 2.5
    assert said.accepted_length_by_shape == {"support": 3.25}


@pytest.mark.parametrize(
    "speculation",
    [{}, {"speculation": None}, {"speculation": {"accepted_length": None, "by": {"shape": {}}}}],
)
def test_without_measured_rounds_a_step_yields_one_token(speculation: dict[str, Any]) -> None:
    said = seen(PLAIN | speculation)
    assert said is not None
    assert (said.accepted_length, said.accepted_length_by_shape, said.steps_per_s) == (1.0, {}, {})


@pytest.mark.parametrize(
    "state", [None, {"running": 1}, PLAIN | {"speculation": "on"}, PLAIN | {"steps_per_s": {"all": 2}}]
)
def test_an_engine_that_is_gone_or_speaks_otherwise_is_taken_out(state: dict[str, Any] | None) -> None:
    assert seen(state) is None


def test_the_accepted_length_is_kept_for_the_dashboard(clean_database_url: str) -> None:
    async def look() -> Any:
        async with fake_upstream() as engine:
            engine.state = SPECULATING
            upstream, database = (
                HttpUpstream(engine.url, api_key=None),
                create_async_engine(clean_database_url),
            )
            await EngineWatch({"engine": EngineSource(upstream)}, Fleet(), database).step()
            async with database.connect() as connection:
                found = await connection.execute(text("SELECT target, accepted_length FROM engine_samples"))
                rows = [tuple(row) for row in found]
            await upstream.close()
            await database.dispose()
            return rows

    assert asyncio.run(look()) == [("engine", 2.5)]


def test_the_time_that_an_engine_is_up_is_kept_with_what_it_costs(
    clean_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_watch, "SAMPLE_EVERY_S", 0.0)

    async def look() -> tuple[Any, ...]:
        async with fake_upstream() as engine:
            engine.state = PLAIN
            upstream, database = (
                HttpUpstream(engine.url, api_key=None),
                create_async_engine(clean_database_url),
            )
            up_times = {"engine": UpTime("engine", "here", Decimal(3600))}  # a dollar a second
            watch = EngineWatch({"engine": EngineSource(upstream)}, Fleet(), database, up_times)
            await watch.step()
            await asyncio.sleep(0.05)
            await watch.step()
            assert not up_times["engine"].unwritten
            async with database.connect() as connection:
                found = await connection.execute(text("SELECT sum(up_s), sum(usd) FROM engine_hours"))
                row = tuple(found.one())
            await upstream.close()
            await database.dispose()
            return row

    up_s, usd = asyncio.run(look())
    assert up_s > 0
    assert float(usd) == pytest.approx(up_s, abs=1e-6)


def test_an_engine_is_told_whose_call_it_is_and_of_what_shape(
    clean_database_url: str, tmp_path: Path
) -> None:
    async def call() -> dict[str, str]:
        async with fake_upstream() as engine:
            engine.state = SPECULATING
            port = int(engine.url.removesuffix("/v1").rpartition(":")[2])
            deployment: dict[str, Any] = {"engine": {"enabled": True}, "engine_port": port}
            async with running_gateway(
                clean_database_url, tmp_path, "version: 1\n", (), **deployment
            ) as gateway:
                status, _, raw = await gateway.post(HELLO, x_task_shape="reasoning")
                assert status == 200, raw
        return engine.headers[0]

    headers = asyncio.run(call())
    assert headers["x-sparkgate-shape"] == "reasoning"
    assert headers["x-sparkgate-caller"] == "suite"
