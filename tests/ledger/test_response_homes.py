"""Homes of responses: once in the table whatever is delivered, read back within a bound, gone after thirty days."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from gateway.ledger import response_homes, segments
from gateway.ledger.batch import problem
from gateway.ledger.database import create_async_engine
from gateway.ledger.drain import Drain
from gateway.ledger.errors import DatabaseAway
from gateway.ledger.maintain import maintain
from gateway.ledger.response_homes import Home, HomeLedger
from gateway.ledger.spool import Spool

RECORD = {
    "kind": "response_home",
    "response_home": {
        "id": "resp_1",
        "target": "a",
        "caller": "app",
        "created_at": "2026-11-22T10:00:00+00:00",
    },
}
NOW = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)


def run(url: str, spool: Spool, test: Callable[[HomeLedger], Awaitable[None]]) -> None:
    async def whole() -> None:
        database = create_async_engine(url)
        await test(HomeLedger(database, spool))
        await database.dispose()

    asyncio.run(whole())


def spool_in(directory: Path, max_bytes: int = 1 << 20) -> Spool:
    return Spool(directory, "w0", max_bytes)


def test_what_is_written_is_read_once_the_drain_has_been_there(
    clean_database_url: str, engine: Engine, tmp_path: Path
) -> None:
    spool = spool_in(tmp_path)

    async def test(ledger: HomeLedger) -> None:
        before = time.time()
        ledger.write("resp_1", Home("a", "app"))
        ledger.write("resp_1", Home("b", "thief"))  # the first one stands
        ledger.write("resp_2", Home("b", "app"))
        spool.close()
        assert await ledger.read("resp_1") is None
        assert await ledger.is_behind(time.time())
        assert not await ledger.is_behind(before)
        Drain(engine, tmp_path).step()
        assert not await ledger.is_behind(time.time())
        assert await ledger.read("resp_1") == Home("a", "app")
        assert await ledger.read("resp_2") == Home("b", "app")

    run(clean_database_url, spool, test)


def test_a_batch_that_comes_twice_is_there_once(engine: Engine, tmp_path: Path) -> None:
    for _ in range(2):
        spool = spool_in(tmp_path)
        spool.append(RECORD)
        spool.close()
        assert Drain(engine, tmp_path).step() == 1
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM response_homes")) == 1


def test_a_full_spool_is_counted_and_costs_no_call(clean_database_url: str, tmp_path: Path) -> None:
    spool = spool_in(tmp_path, max_bytes=1)

    async def test(ledger: HomeLedger) -> None:
        ledger.write("resp_1", Home("a", "app"))

    run(clean_database_url, spool, test)
    assert (spool.full_losses, segments.ready(tmp_path)) == (1, [])


def test_a_database_that_is_slow_is_not_waited_for_and_is_asked_again(
    clean_database_url: str, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_homes, "READ_WITHIN_S", 0.1)

    async def test(ledger: HomeLedger) -> None:
        with engine.begin() as connection:
            connection.execute(text("LOCK TABLE response_homes IN ACCESS EXCLUSIVE MODE"))
            for _ in range(3):  # more than may be under way, and than the pool has
                readings = [ledger.read("resp_1") for _ in range(10)]
                for error in await asyncio.gather(*readings, return_exceptions=True):
                    assert isinstance(error, DatabaseAway)
        monkeypatch.setattr(response_homes, "READ_WITHIN_S", 10.0)
        assert await ledger.read("resp_1") is None

    run(clean_database_url, spool_in(tmp_path), test)


@pytest.mark.parametrize("missing", ["id", "target", "caller", "created_at"])
def test_what_is_not_whole_is_refused_before_the_database_sees_it(missing: str) -> None:
    assert problem(RECORD) is None
    row = {name: value for name, value in RECORD["response_home"].items() if name != missing}  # type: ignore[attr-defined]
    assert "KeyError" in str(problem({"kind": "response_home", "response_home": row}))


def test_homes_are_forgotten_when_openai_forgets_responses(engine: Engine) -> None:
    insert = text("INSERT INTO response_homes VALUES (:id, 'a', 'app', :at)")
    with engine.begin() as connection:
        for name, age in (("old", timedelta(days=30, minutes=1)), ("kept", timedelta(days=29))):
            connection.execute(insert, {"id": name, "at": NOW - age})
        maintain(connection, NOW, retention_days=90)
        assert list(connection.scalars(text("SELECT id FROM response_homes"))) == ["kept"]


def test_a_home_is_found_by_an_index(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        for where, index in (("id = 'x'", "pkey"), ("created_at < now()", "created_at_idx")):
            plan = connection.scalars(text(f"EXPLAIN SELECT target FROM response_homes WHERE {where}"))
            assert f"response_homes_{index}" in "\n".join(plan)
