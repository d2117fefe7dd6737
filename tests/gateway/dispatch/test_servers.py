"""Targets of kind vllm and sglang: what they tell at `/metrics` reaches routing, ledger and operators, and no call
depends on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import text

from gateway.dispatch import engine_watch
from gateway.dispatch.booking import Book
from gateway.dispatch.engine_watch import EngineWatch
from gateway.dispatch.metrics import Metrics
from gateway.ledger.costs import Price
from gateway.ledger.database import create_async_engine
from gateway.ledger.records import Attempt, Usage
from gateway.ledger.spool import Spool
from gateway.upstreams import engine_sources
from gateway.upstreams.engine_sources import ServerSource
from gateway.upstreams.openai_http import HttpUpstream
from gateway.upstreams.server_metrics import Kind
from router.fleet import EngineState, Fleet
from tests.fakes import FakeUpstream, fake_upstream
from tests.gateway.conftest import HELLO, Gateway, Run

PAGES = Path(__file__).resolve().parents[2] / "fixtures" / "metrics"
DSPARK = (PAGES / "vllm-0.32.txt").read_text()
MODELS = {"Qwen/Qwen3-4B": 32768}


@asynccontextmanager
async def watched(kind: Kind = "vllm") -> AsyncIterator[tuple[FakeUpstream, EngineWatch, Fleet]]:
    """A server that tells nothing yet, and a watch that looks at it."""
    async with fake_upstream() as server:
        upstream, fleet = HttpUpstream(server.url, "key"), Fleet()
        source = ServerSource(kind, upstream, "Qwen/Qwen3-4B", 64)
        yield server, EngineWatch({"pool": source}, fleet, None), fleet
        await upstream.close()


def test_the_router_knows_a_servers_load_as_that_of_an_engine() -> None:
    async def test() -> EngineState | None:
        async with watched() as (server, watch, fleet):
            server.metrics, server.models = DSPARK, MODELS
            await watch.step()
            assert watch.problems == {}
            return fleet.health("pool").engine

    assert asyncio.run(test()) == EngineState(
        running=10,
        waiting=3,
        max_batch=64,
        max_context_tokens=32768,
        accepted_length=4.0,
        prefill_tokens_per_s=1200.0,
    )


@pytest.mark.parametrize(
    ("kind", "told", "problem"),
    [
        ("vllm", None, "/metrics answers with status 404"),
        ("sglang", None, "/metrics answers with status 404; start SGLang with --enable-metrics"),
        ("vllm", "<html>hello</html>", "/metrics tells nothing of vllm: is that the right kind?"),
        ("sglang", DSPARK, "/metrics tells nothing of sglang: is that the right kind?"),
    ],
)
def test_a_server_that_tells_nothing_has_no_state_and_stays_in_routing(
    kind: Kind, told: str | None, problem: str
) -> None:
    async def test() -> None:
        async with watched(kind) as (server, watch, fleet):
            server.metrics, server.models = told, MODELS
            await watch.step()
            health = fleet.health("pool")
            assert (health.engine, health.unreachable_since_s) == (None, None)
            assert watch.problems == {"pool": problem}

    asyncio.run(test())


def test_the_last_state_stands_for_a_moment_then_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with watched() as (server, watch, fleet):
            server.metrics, server.models = DSPARK, MODELS
            await watch.step()
            server.metrics = None
            await watch.step()
            assert fleet.health("pool").engine is not None
            monkeypatch.setattr(engine_watch, "KNOWN_FOR_S", 0.0)
            await watch.step()
            assert fleet.health("pool").engine is None
            server.metrics = DSPARK
            await watch.step()
            assert fleet.health("pool").engine is not None
            assert watch.problems == {}

    asyncio.run(test())


def test_a_server_of_another_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_sources, "MODELS_EVERY_S", 0.0)

    async def test() -> None:
        async with watched() as (server, watch, _):
            server.metrics, server.models = DSPARK, {"other": 4096}
            await watch.step()
            listed = "the model Qwen/Qwen3-4B is not among those that the server lists: other"
            assert watch.problems == {"pool": listed}
            server.models = MODELS | {"other": 4096}
            await watch.step()
            assert watch.problems == {}

    asyncio.run(test())


def test_calls_go_to_a_server_whatever_it_tells_and_are_charged_by_the_hour(
    with_gateway: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dollar a second: 7 tokens of prompt at 1,200 a second have the machine, the rest has one of 64 places."""

    async def test(gateway: Gateway) -> None:
        server = gateway.fakes["pool"]
        server.metrics, server.models = DSPARK, {"pool-model": 4096}
        await up(gateway, b"1.0")
        status, headers, raw = await gateway.post(HELLO)
        assert (status, headers["x-sparkgate-target"]) == (200, "pool"), raw
        (attempt,) = (await gateway.exchange())["attempts"]
        prefill_s = min(7 / 1200, attempt["total_s"])
        spent_s = prefill_s + (attempt["total_s"] - prefill_s) / 64
        assert float(attempt["cost_usd"]) == pytest.approx(spent_s, abs=1e-6)
        server.metrics = "nothing of the kind"
        await up(gateway, b"0.0")
        _, health = await gateway.get("/health")
        problem = "/metrics tells nothing of vllm: is that the right kind?"
        assert (health["targets"]["pool"]["usable"], health["targets"]["pool"]["problem"]) == (True, problem)
        status, *_ = await gateway.post(HELLO)
        assert status == 200

    async def up(gateway: Gateway, value: bytes) -> None:
        for _ in range(500):
            _, figures = await gateway.get("/metrics")
            if b'sparkgate_engine_up{target="pool"} ' + value in figures:
                return
            await asyncio.sleep(0.02)
        pytest.fail("the state was not looked at")

    monkeypatch.setattr(engine_watch, "INTERVAL_S", 0.02)
    monkeypatch.setattr(engine_watch, "KNOWN_FOR_S", 0.0)
    pool = {"kind": "vllm", "max_batch": 64, "cost_per_hour_usd": 3600}
    with_gateway("version: 1\n", ("pool",), limits={"pool": pool})(test)


@pytest.mark.parametrize(
    ("ttft_s", "spent_s"),
    [
        (None, 0.5 + 9.5 / 64),  # not streamed: 500 tokens at 1,000 a second, the rest decoding
        (2.0, 0.5 + 8.0 / 64),  # 1.5 s of the two were spent waiting
        (0.25, 0.25 + 9.75 / 64),
    ],
)
def test_a_servers_prefill_is_charged_by_its_measured_pace(
    tmp_path: Path, ttft_s: float | None, spent_s: float
) -> None:
    price = Price("pool", "m", "config", usd_per_hour=Decimal(3600))
    with closing(Spool(tmp_path, "w", 2**20)) as spool:
        metrics = Metrics(CollectorRegistry())
        book = Book(spool, metrics, {"pool": price}, {"pool": 64}, "refuse", lambda target: 1000.0)
        usage = Usage(input_tokens=800, output_tokens=100, cached_tokens=300)
        attempt = Attempt("pool", "m", 1.0, 0.0, total_s=10.0, ttft_s=ttft_s, usage=usage, result="ok")
        book.charge(attempt)
    assert attempt.cost_nusd == round(spent_s * 1e9)


def test_a_sample_of_a_server_is_kept_for_the_dashboard(clean_database_url: str) -> None:
    async def test() -> Any:
        async with fake_upstream() as server:
            server.metrics, server.models = DSPARK, MODELS
            upstream, database = HttpUpstream(server.url, None), create_async_engine(clean_database_url)
            source = ServerSource("vllm", upstream, "Qwen/Qwen3-4B", 64)
            await EngineWatch({"pool": source}, Fleet(), database).step()
            async with database.connect() as connection:
                query = text("SELECT running, waiting, kv_used_fraction, accepted_length FROM engine_samples")
                row = tuple((await connection.execute(query)).one())
            await upstream.close()
            await database.dispose()
            return row

    assert asyncio.run(test()) == (10, 3, 0.5, 4.0)
