"""What callers used, read from a real Postgres that the drain's own writer filled."""

from __future__ import annotations

import asyncio
import json
from datetime import date
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.callers import usage
from gateway.callers.spending import DAY_S, Snapshot, Spent, day_of
from gateway.callers.store import Terms, create_key
from gateway.ledger import batch
from gateway.ledger.database import create_async_engine, create_engine
from gateway.ledger.records import Attempt, Exchange, Usage, uuid7
from gateway.ledger.segments import decode_line, encode_line

NOON = 1_795_262_400.0  # 2026-11-21 12:00:00 UTC
TODAY = day_of(NOON)


@pytest.fixture
def engine(clean_database_url: str) -> Any:
    engine = create_engine(clean_database_url)
    yield engine
    engine.dispose()


def call(caller: str, nusd: int, at: float = NOON) -> Exchange:
    attempt = Attempt("a", "m", at, id=uuid7(at), usage=Usage(10, 5), cost_nusd=nusd)
    return Exchange(caller, "/v1/chat/completions", False, at, id=uuid7(at), status=200, attempts=[attempt])


def write(engine: Engine, *exchanges: Exchange) -> None:
    lines = [encode_line(exchange.record()).rstrip(b"\n") for exchange in exchanges]
    records = [record for record in map(decode_line, lines) if record is not None]
    with engine.begin() as connection:
        batch.write(connection, records)


def run(url: str, action: Any) -> Any:
    async def whole() -> Any:
        database = create_async_engine(url)
        try:
            async with database.begin() as connection:
                return await action(connection)
        finally:
            await database.dispose()

    return asyncio.run(whole())


def test_spending_is_of_today_and_of_this_month(engine: Engine, clean_database_url: str) -> None:
    write(
        engine,
        call("app", 3),
        call("app", 4),
        call("app", 20, NOON - DAY_S),
        call("app", 500, NOON - 21 * DAY_S),  # October
        call("other", 100, NOON - DAY_S),
    )
    spent = run(clean_database_url, lambda conn: usage.spent(conn, TODAY))
    assert spent == {"app": Spent(7, 27), "other": Spent(0, 100)}
    assert run(clean_database_url, lambda conn: usage.spent(conn, TODAY - 1))["app"] == Spent(20, 20)


def test_a_snapshot_is_of_keys_with_a_budget_and_says_which_exchanges_it_holds(
    engine: Engine, clean_database_url: str
) -> None:
    async def add_keys(conn: AsyncConnection) -> None:
        terms: dict[str, Terms] = {"daily": {"daily_usd": 1}, "monthly": {"monthly_usd": 1}, "free": {}}  # type: ignore[typeddict-item]
        for name, of_key in terms.items():
            await create_key(conn, name, terms=of_key)

    run(clean_database_url, add_keys)
    written, missing = [call(name, 5) for name in ("daily", "monthly", "free")], call("daily", 5)
    write(engine, *written)
    asked = [written[0].id, missing.id]
    assert run(clean_database_url, lambda conn: usage.snapshot(conn, TODAY, asked)) == Snapshot(
        TODAY, {"daily": Spent(5, 5), "monthly": Spent(5, 5)}, {written[0].id}
    )
    assert run(clean_database_url, lambda conn: usage.snapshot(conn, TODAY, [])).found == frozenset()


def test_usage_by_day_is_ready_for_json(engine: Engine, clean_database_url: str) -> None:
    write(
        engine,
        call("app", 3),
        call("app", 4),
        call("app", 20, NOON - DAY_S),
        call("app", 1, NOON - 9 * DAY_S),
    )
    rows = run(clean_database_url, lambda conn: usage.by_day(conn, date(2026, 11, 20)))
    assert json.loads(json.dumps(rows)) == [
        {
            "day": "2026-11-21",
            "caller": "app",
            "calls": 2,
            "tokens": 30,
            "cost_usd": 7e-9,
            "attempts_of_unknown_cost": 0,
        },
        {
            "day": "2026-11-20",
            "caller": "app",
            "calls": 1,
            "tokens": 15,
            "cost_usd": 2e-8,
            "attempts_of_unknown_cost": 0,
        },
    ]
