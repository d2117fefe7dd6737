"""Whatever is killed under load: a call whose answer reached its client is in the ledger once, and no call is twice.

The real product with two workers, kill -9 at drawn moments of a worker, of Postgres, of the whole tree; then a
database that is silent for a while. `SPARKGATE_KILLS` says how many kills, `SPARKGATE_OUTAGE_S` how long the database
is silent; `make test-kills` runs twenty and two minutes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from math import ceil
from random import Random
from typing import Any

import aiohttp
import psutil
import pytest
from sqlalchemy import text

from gateway.ledger import embedded, postmaster
from gateway.ledger.database import create_engine
from tests.system.product import PATIENCE_S, Product
from tests.system.upstream import Behaviour, Upstream

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(1800)]

KILLS = int(os.environ.get("SPARKGATE_KILLS", "3"))
OUTAGE_S = float(os.environ.get("SPARKGATE_OUTAGE_S", "10"))
CALLS_PER_S = 200.0
BETWEEN_S = (0.5, 2.5)  # from when calls are answered again to the next kill
BESIDE_S = max(5.0, OUTAGE_S / 4)  # of load before the outage, and after it
VICTIMS = ("worker", "postgres", "tree")
PATH = "/v1/chat/completions"
ASK = [{"role": "user", "content": "Write a short story about a lighthouse."}]


@dataclass
class Load:
    """What clients saw: ids of the calls whose answers came whole, and what the answers took."""

    completed: list[str] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)  # statuses of whole answers that were not 200
    broken: int = 0
    unconnected: int = 0  # of these, never begun
    times: list[tuple[float, float]] = field(default_factory=list)  # sent, seconds

    def waits(self, since: float, until: float) -> str:
        times = sorted(took for sent, took in self.times if since <= sent < until)
        p50_s, p99_s = (times[ceil(q * len(times)) - 1] for q in (0.5, 0.99))
        return f"p50 {p50_s:.3f} s, p99 {p99_s:.3f} s of {len(times):,} calls"


@pytest.fixture(scope="module")
def product() -> Iterator[Product]:
    with ExitStack() as stack:
        upstream = stack.enter_context(Upstream(Behaviour(0.02, 0.002, output_tokens=4)))
        product = Product("--no-engine", "--no-dashboard", "--workers", 2)
        stack.callback(product.remove)
        config = product.data_dir / "sparkgate.yaml"
        config.write_text(
            f'targets:\n  - {{name: cloud, kind: openai, base_url: "{upstream.url}/v1", model: m}}\n'
        )
        product.options += ["--config", str(config)]
        product.start()
        yield product


@asynccontextmanager
async def under_load(product: Product) -> AsyncIterator[Load]:
    """Poisson arrivals, every other call streamed; at the end those under way are waited for."""
    load, chance, running = Load(), Random(7), set[asyncio.Task[None]]()

    async def arrive(http: aiohttp.ClientSession) -> None:
        due = time.monotonic()
        while True:
            due = max(
                due + chance.expovariate(CALLS_PER_S), time.monotonic() - 0.5
            )  # a late client catches up little
            await asyncio.sleep(due - time.monotonic())
            call = asyncio.create_task(_call(http, load, chance.random() < 0.5))
            running.add(call)
            call.add_done_callback(running.discard)

    headers = {"Authorization": f"Bearer {product.key}"}
    waits, connector = aiohttp.ClientTimeout(total=PATIENCE_S), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        product.url, headers=headers, timeout=waits, connector=connector
    ) as http:
        arriving = asyncio.create_task(arrive(http))
        yield load
        arriving.cancel()
        with suppress(asyncio.CancelledError):
            await arriving
        await asyncio.gather(*running)


async def _call(http: aiohttp.ClientSession, load: Load, stream: bool) -> None:
    body = {"model": "auto", "messages": ASK, "stream": stream}
    sent = time.monotonic()
    try:
        async with http.post(PATH, json=body) as answer:
            text = await answer.text()
    except (aiohttp.ClientError, ConnectionError) as error:
        load.broken += 1
        load.unconnected += isinstance(error, aiohttp.ClientConnectorError)
        return
    if stream and answer.status == 200 and not text.rstrip().endswith("[DONE]"):
        load.broken += 1
        return
    if "x-request-id" in answer.headers:  # else it was turned away at the door, and no row is due
        load.completed.append(answer.headers["x-request-id"].removeprefix("req_"))
    if answer.status == 200:
        load.times.append((sent, time.monotonic() - sent))
    else:
        load.refused.append(answer.status)


async def _answered_again(load: Load) -> None:
    """Some calls later."""
    target, deadline = len(load.times) + 10, time.monotonic() + PATIENCE_S
    while len(load.times) < target:
        assert time.monotonic() < deadline, "no call is answered any more"
        await asyncio.sleep(0.02)


def kill(product: Product, victim: str, chance: Random) -> None:
    """`tree` is the supervisor, all its parts and Postgres, at once, and then started anew."""
    family = product.family()
    if victim == "worker":
        workers = [process for process in family if "gateway.worker" in _command(process)]
        chance.choice(workers).kill()
    elif victim == "postgres":
        psutil.Process(_postgres(product)).kill()
    else:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        product.wait()
        product.start()


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _postgres(product: Product) -> int:
    """The server's pid, once it runs: a kill before may have left it on its way."""
    deadline = time.monotonic() + PATIENCE_S
    while (server := postmaster.find(product.data_dir / "pg")) is None or not server.ready:
        assert time.monotonic() < deadline, "Postgres does not come back"
        time.sleep(0.05)
    return server.pid


def wait_for_the_drain(product: Product) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while left := [
        path for path in (product.data_dir / "spool").iterdir() if path.suffix in (".open", ".ready")
    ]:
        assert time.monotonic() < deadline, f"never drained: {left}"
        time.sleep(0.1)


def assert_the_ledger_has(product: Product, completed: list[str]) -> int:
    """Each of them once, nobody twice, and sums that equal the rows. Returns how many rows there are."""
    assert not (product.data_dir / "spool" / "quarantine").exists()
    url = embedded.running_url(product.data_dir)
    assert url is not None
    engine = create_engine(url)

    def one(query: str) -> Any:
        with engine.connect() as connection:
            return tuple(connection.execute(text(query)).one())

    with engine.connect() as connection:
        rows = [key.hex for key in connection.scalars(text("SELECT id FROM exchanges"))]
    assert len(set(completed)) == len(completed)
    assert set(completed) <= set(rows), f"{len(set(completed) - set(rows))} of {len(completed)} are lost"
    assert len(set(rows)) == len(rows)
    calls = "count(*), coalesce(sum(output_tokens), 0), sum(cost_usd) IS NULL, sum(attempts)"
    assert one(
        "SELECT sum(calls), sum(output_tokens), sum(cost_usd) = 0, sum(attempts) FROM call_sums"
    ) == one(f"SELECT {calls} FROM exchanges")
    results = "SELECT array_agg((result, n)::text ORDER BY result) FROM (SELECT result, {} n FROM {} GROUP BY 1) each"
    assert one(results.format("sum(attempts)", "attempt_sums")) == one(results.format("count(*)", "attempts"))
    assert one("SELECT sum(calls) FROM quota_usage") == one("SELECT count(*) FROM exchanges")
    assert one("SELECT sum(calls) FROM choice_sums") == one("SELECT count(*) FROM exchanges")
    assert one("SELECT sum(calls) FROM task_sums") == one("SELECT count(*) FROM exchanges")
    assert one("SELECT sum(each) FROM latency_histograms, unnest(n) AS each WHERE metric = 'total_s'") == one(
        "SELECT count(*) FROM exchanges WHERE status = 200 AND error_code IS NULL AND target IS NOT NULL"
    )
    engine.dispose()
    return len(rows)


def test_every_answered_call_is_in_the_ledger_once_whatever_is_killed(product: Product) -> None:
    chance = Random(20)

    async def story() -> Load:
        async with under_load(product) as load:
            for number in range(KILLS):
                await _answered_again(load)
                await asyncio.sleep(chance.uniform(*BETWEEN_S))
                await asyncio.to_thread(kill, product, VICTIMS[number % len(VICTIMS)], chance)
            await _answered_again(load)
        return load

    load = asyncio.run(story())
    wait_for_the_drain(product)
    rows = assert_the_ledger_has(product, load.completed)
    print(f"\n{KILLS} kills: {len(load.completed)} calls answered, {load.broken} broken off, {rows} rows")
    assert load.broken > 0  # the kills were felt
    assert len(load.times) > 100


def test_a_silent_database_costs_the_data_plane_nothing(product: Product) -> None:
    async def story() -> tuple[Load, list[float]]:
        async with under_load(product) as load:
            moments = [time.monotonic()]
            await asyncio.sleep(BESIDE_S)
            moments.append(time.monotonic())
            with silenced(psutil.Process(_postgres(product))):
                await asyncio.sleep(OUTAGE_S)
            moments.append(time.monotonic())
            await asyncio.sleep(BESIDE_S)
            moments.append(time.monotonic())
        return load, moments

    load, moments = asyncio.run(story())
    wait_for_the_drain(product)
    assert_the_ledger_has(product, load.completed)
    print()
    for name, since, until in zip(
        ("before", "without a database", "after"), moments, moments[1:], strict=False
    ):
        print(f"{name:<20}{load.waits(since, until)}")
    assert (load.broken, load.refused) == (0, [])


@contextmanager
def silenced(server: psutil.Process) -> Iterator[None]:
    """Worse than gone: connections stay open, and nothing answers."""
    processes = [server, *server.children(recursive=True)]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
