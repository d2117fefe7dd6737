"""Keys and spending stay known when the database does not answer; what expires goes all the same."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from gateway.callers.spending import Spent, day_of
from gateway.callers.store import create_key
from gateway.control.key_watch import KeyWatch
from gateway.ledger import batch
from gateway.ledger.database import create_async_engine, create_engine
from gateway.ledger.records import Attempt, Exchange
from gateway.ledger.segments import decode_line, encode_line

AWAY = "postgresql://nobody@127.0.0.1:1/none"
KEY = "sg-key-that-expires"


def test_an_expired_key_goes_also_while_the_database_is_away(clean_database_url: str) -> None:
    async def whole() -> None:
        database = create_async_engine(clean_database_url)
        ends = datetime.now(UTC) + timedelta(seconds=0.5)
        async with database.begin() as connection:
            await create_key(connection, "brief", key=KEY, terms={"expires_at": ends})
            await create_key(connection, "lasting", key="sg-another")
        watch = KeyWatch(database)
        await watch.refresh()
        assert watch.ring.find(None, KEY) is not None
        await database.dispose()
        watch._database = create_async_engine(AWAY)
        await asyncio.sleep(max(0.0, ends.timestamp() - time.time()))
        await watch.step()
        assert watch.ring.find(None, KEY) is None
        assert watch.ring.find(None, "sg-another") is not None

    asyncio.run(whole())


def test_spending_of_all_workers_is_known_and_ones_own_counts_once(clean_database_url: str) -> None:
    async def whole() -> None:
        database = create_async_engine(clean_database_url)
        async with database.begin() as connection:
            await create_key(connection, "app", terms={"daily_usd": Decimal(1)})
        watch, now = KeyWatch(database), time.time()
        own, others = (
            Exchange("app", "/v1", False, now, attempts=[Attempt("a", "m", now, cost_nusd=cost)])
            for cost in (5, 100)
        )
        await watch.refresh()
        watch.spending.add("app", 5, day_of(now), own.id)
        await watch.refresh()
        assert watch.spending.of("app", now) == Spent(5, 5)
        await asyncio.to_thread(write, clean_database_url, own, others)
        await watch.refresh()
        assert watch.spending.of("app", now) == Spent(105, 105)
        await database.dispose()

    asyncio.run(whole())


def write(url: str, *exchanges: Exchange) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        for exchange in exchanges:
            record = decode_line(encode_line(exchange.record()).rstrip(b"\n"))
            assert record is not None
            batch.write(connection, [record])
    engine.dispose()
