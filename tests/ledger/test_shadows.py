"""Attempts made on trial: each is written once, and no sum of what calls used has them in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Engine, text

from gateway.ledger import lookups
from gateway.ledger.batch import problem
from gateway.ledger.database import create_async_engine
from gateway.ledger.drain import Drain
from gateway.ledger.records import Attempt, Exchange, Usage, shadow_record, uuid7
from gateway.ledger.segments import decode_line, encode_line
from gateway.ledger.shadows import ShadowCosts, shadow_costs
from tests.ledger.conftest import NOON
from tests.ledger.test_drain import count, drain_all, histogram_total, spooled

MakeExchange = Callable[..., Exchange]
DAY = datetime.fromtimestamp(NOON, UTC).date()


def shadow(at: float = NOON + 5, cost_nusd: int | None = 9_000) -> Attempt:
    return Attempt(
        "trial", "m", at, id=uuid7(at), total_s=1.0, usage=Usage(1_000, 1_000), cost_nusd=cost_nusd
    )


def carried_shadow(attempt: Attempt, exchange: Exchange) -> dict[str, Any]:
    record = decode_line(encode_line(shadow_record(attempt, exchange.id, 1)).rstrip(b"\n"))
    assert record is not None
    return record


def test_it_is_written_once_and_counted_in_no_sum(
    engine: Engine, clean_database_url: str, tmp_path: Path, make_exchange: MakeExchange
) -> None:
    exchange, attempt = make_exchange(task_id="t1"), shadow()
    records = exchange.record(), shadow_record(attempt, exchange.id, 1)
    for _ in range(2):  # as after a kill between writing and dropping the segment
        spooled(tmp_path, *records)
        assert drain_all(engine, tmp_path).quarantined == 0
    assert (count(engine, "exchanges"), count(engine, "attempts")) == (1, 2)
    assert histogram_total(engine) == 3  # of the exchange alone
    with engine.connect() as connection:
        used = connection.execute(text("SELECT calls, tokens, cost_usd::float8 FROM quota_usage")).one()
        kept = connection.execute(text("SELECT * FROM attempts WHERE role = 'shadow'")).mappings().one()
    assert tuple(used) == (1, 31, 0.0000015)
    assert (kept["id"], kept["exchange_id"], kept["target"]) == (attempt.id, exchange.id, "trial")

    async def read() -> tuple[Any, Any]:
        database = create_async_engine(clean_database_url)
        found = (
            await lookups.exchange(database, exchange.id, "alice"),
            await lookups.task(database, "alice", "t1"),
        )
        await database.dispose()
        return found

    shown, task = asyncio.run(read())
    assert [made["target"] for made in shown["attempts"]] == ["engine"]
    assert [made["target"] for made in shown["shadows"]] == ["trial"]
    assert (task["attempts"], task["cost_usd"], task["input_tokens"]) == (1, 0.0000015, 20)


def test_what_shadows_cost_today_by_shape(
    engine: Engine, clean_database_url: str, tmp_path: Path, make_exchange: MakeExchange
) -> None:
    chat, code = make_exchange(), make_exchange(shape="code_generation")
    before_midnight = make_exchange(NOON - 12 * 3600 - 1)
    first, second, unknown = shadow(), shadow(), shadow(cost_nusd=None)
    after_midnight, of_yesterday = shadow(NOON - 12 * 3600 + 1), shadow(NOON - 12 * 3600 - 0.5)
    beside = [(first, chat), (second, chat), (unknown, code), (after_midnight, before_midnight)]
    spooled(
        tmp_path,
        *(exchange.record() for exchange in (chat, code, before_midnight)),
        *(shadow_record(attempt, exchange.id, 1) for attempt, exchange in beside),
        shadow_record(of_yesterday, before_midnight.id, 1),
    )
    Drain(engine, tmp_path).step()

    async def read() -> ShadowCosts:
        database = create_async_engine(clean_database_url)
        async with database.connect() as connection:
            costs = await shadow_costs(connection, DAY, [first.id, of_yesterday.id, uuid7()])
        await database.dispose()
        return costs

    costs = asyncio.run(read())
    assert costs.nusd == {"short_chat": 27_000, "code_generation": None}
    assert costs.found == {first.id}


def test_a_malformed_one_is_found_out(make_exchange: MakeExchange) -> None:
    good = carried_shadow(shadow(), make_exchange())
    assert problem(good) is None
    for change in ({"id": "x"}, {"exchange_id": 3}, {"started_at": None}):
        assert problem(orjson.loads(orjson.dumps(good)) | {"attempt": good["attempt"] | change})
