"""Workers on one database tell each other of their targets, start warm from the ledger, and do without either."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.app import Parts
from gateway.assemble import Files, assembled
from gateway.config.deployment import Deployment
from gateway.control.fleet_watch import INTERVAL_S, REMEMBERED_CALLS, FleetWatch, SharedFleet
from gateway.ledger import batch
from gateway.ledger.database import create_async_engine, create_engine
from gateway.ledger.records import Attempt, Exchange, uuid7
from gateway.ledger.segments import decode_line, encode_line
from router.catalog import Catalog
from router.decide import decide
from router.fleet import Fleet
from router.outcome import Outcome
from tests.gateway.conftest import eventually
from tests.router.calls import catalog, policy, query, seen

AWAY = "postgresql://nobody@127.0.0.1:1/none"
POLICY = "version: 1\ndefaults: {explore: 0, objective: completion_p95, candidates: [a, b]}\n"
PLACES = {"a": "here", "b": "here"}


def first_choice(fleet: Fleet, targets: Catalog | None = None) -> str:
    rules = policy(objective="completion_p95", candidates=("a", "b"))
    decision = decide(query(), targets or catalog("a", "b"), rules, fleet, time.monotonic(), 0.5)
    return decision.candidates[0].target


def slow_down(fleet: Fleet, target: str, times: int = 10) -> None:
    """Calls that took ten times longer than others."""
    seen(fleet, target, time.monotonic(), times=times, total_s=20.0, ttft_s=5.0, tpot_s=0.3)


def files_of(database_url: str, folder: Path) -> Files:
    """A deployment of targets `a` and `b`."""
    policy_file = folder / "policy.yaml"
    policy_file.write_text(POLICY)
    listed = [
        {"kind": "openai", "name": name, "base_url": "http://127.0.0.1:1/v1", "model": f"{name}-model"}
        for name in PLACES
    ]
    deployment = Deployment.model_validate({"engine": {"enabled": False}, "targets": listed})
    return Files(deployment, {}, policy_file, folder, database_url)


def with_database(url: str, test: Callable[[AsyncEngine], Awaitable[None]]) -> None:
    async def whole() -> None:
        database = create_async_engine(url)
        await test(database)
        await database.dispose()

    asyncio.run(whole())


def write_calls(url: str, target: str, total_s: float, times: int = 20, age_s: float = 600.0) -> None:
    """Streamed calls of shape `general`, as the drain writes them."""
    at = time.time() - age_s
    engine = create_engine(url)
    with engine.begin() as connection:
        for _ in range(times):
            tried = Attempt(target, "m", at, id=uuid7(at), ttft_s=total_s / 4, total_s=total_s)
            call = Exchange("app", "/v1", True, at, uuid7(at), shape="general", status=200, attempts=[tried])
            record = decode_line(encode_line(call.record()).rstrip(b"\n"))
            assert record is not None
            batch.write(connection, [record])
    engine.dispose()


def test_a_second_gateway_hears_of_a_slow_target(clean_database_url: str, tmp_path: Path) -> None:
    """Two whole workers; the second decides otherwise, though it made no call since."""
    files = files_of(clean_database_url, tmp_path)

    async def whole() -> None:
        async with assembled(files, 0) as one, assembled(files, 1) as two:
            fleets = [parts.dispatcher.targets.fleet for parts in (one, two)]
            now = time.monotonic()
            for fleet in fleets:
                seen(fleet, "a", now, times=5)
                seen(fleet, "b", now, times=5, total_s=2.0, ttft_s=0.4, tpot_s=0.04)
            assert [choice_of(parts) for parts in (one, two)] == ["a", "a"]
            await asyncio.sleep(4 * INTERVAL_S)  # this is known to both, and older than what follows
            slow_down(fleets[0], "a", times=20)
            told = time.monotonic()
            await eventually(lambda: choice_of(two) == "b", within_s=60.0)
            print(f"another worker decided otherwise after {time.monotonic() - told:.2f} s")
            assert choice_of(one) == "b"

    asyncio.run(whole())


def choice_of(parts: Parts) -> str:
    return first_choice(parts.dispatcher.targets.fleet, parts.dispatcher.targets.catalog)


def test_a_new_worker_starts_from_what_the_ledger_knows(clean_database_url: str, tmp_path: Path) -> None:
    files = files_of(clean_database_url, tmp_path)

    async def start_with(choice: str) -> None:
        async with assembled(files, 0) as parts:
            await eventually(
                lambda: choice_of(parts) == choice, within_s=60.0
            )  # at once, but for a slow database
            assert "removed" not in parts.dispatcher.targets.fleet.targets

    asyncio.run(start_with("a"))  # knowing nothing, in the policy's order
    write_calls(clean_database_url, "a", 20.0)
    write_calls(clean_database_url, "b", 1.0)
    write_calls(clean_database_url, "removed", 0.1)
    asyncio.run(start_with("b"))


def test_a_few_dozen_fresh_calls_outvote_the_ledger(clean_database_url: str) -> None:
    write_calls(clean_database_url, "a", 20.0)
    write_calls(clean_database_url, "b", 1.0)

    async def test(database: AsyncEngine) -> None:
        fleet = SharedFleet(60.0)
        await FleetWatch(fleet, database, PLACES).step()
        outlook = fleet.health("a").outlook("general", time.monotonic())
        assert outlook.ttft_weight == pytest.approx(REMEMBERED_CALLS, rel=0.05)
        assert first_choice(fleet) == "b"
        seen(fleet, "b", time.monotonic(), times=36, total_s=40.0, ttft_s=10.0, tpot_s=0.6)
        seen(fleet, "a", time.monotonic(), times=36, total_s=1.0, ttft_s=0.2)
        assert first_choice(fleet) == "a"

    with_database(clean_database_url, test)


def test_news_of_another_place_and_of_other_versions_is_left_alone(clean_database_url: str) -> None:
    async def test(database: AsyncEngine) -> None:
        teller, hearer = SharedFleet(60.0), SharedFleet(60.0)
        telling = FleetWatch(teller, database, {"a": "there", "b": "here"})
        hearing = FleetWatch(hearer, database, PLACES)
        for name in PLACES:
            seen(teller, name, time.monotonic())
        await telling.step()
        strange = '[{}, 3, {"target": "b", "shape": "general", "place": "here", "sums": 1}]'
        async with database.begin() as connection:
            insert = "INSERT INTO fleet_news (id, worker, digests) SELECT gen_random_uuid(), gen_random_uuid(), :it"
            await connection.execute(text(insert.replace(":it", "CAST(:it AS jsonb)")), {"it": strange})
        await hearing.step()
        await hearing.step()
        assert hearer.targets.keys() == {"b"}
        assert hearer.health("b").of("general").num_samples == 10  # heard once
        assert teller.health("b").of("general").num_samples == 10  # and not by who told it

    with_database(clean_database_url, test)


def test_a_database_that_is_away_costs_news_only(
    clean_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(database: AsyncEngine) -> None:
        caplog.set_level(logging.INFO, "gateway.control.fleet_watch")
        teller, hearer = SharedFleet(60.0), SharedFleet(60.0)
        telling, hearing = (
            FleetWatch(fleet, create_async_engine(AWAY), PLACES) for fleet in (teller, hearer)
        )
        for watch in (telling, hearing):
            await watch.start()
        for _ in range(3):
            slow_down(teller, "a")
            await telling.step()
            assert teller.take_digests() == {}  # they do not pile up
        assert first_choice(teller) == "b"
        assert len(caplog.records) == 2  # one for each
        for watch in (telling, hearing):
            watch._database = database
        slow_down(teller, "a")
        await telling.step()
        await hearing.step()
        assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "INFO", "INFO"]
        assert hearer.health("a").of("general").num_samples == 10
        assert first_choice(hearer) == "b"

    with_database(clean_database_url, test)


def test_a_silent_database_does_not_hold_up_the_start() -> None:
    async def whole() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            database = create_async_engine(f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/none")
            fleet = SharedFleet(60.0)
            watch = FleetWatch(fleet, database, PLACES)
            await asyncio.wait_for(watch.start(), 60.0)
            assert fleet.targets == {}
            await database.dispose()

    asyncio.run(whole())


def test_a_fleet_keeps_what_its_own_calls_taught_until_it_is_taken() -> None:
    fleet: Any = SharedFleet(60.0)
    fleet.start("a")
    fleet.observe(Outcome("a", "general", "connect_error", 0.1), 1.0)
    fleet.absorb("a", "general", fleet.take_digests()["a", "general"], 1.0)
    assert fleet.health("a").breaker.consecutive_failures == 1
    assert fleet.take_digests() == {}  # what was heard is not told again
