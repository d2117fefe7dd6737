"""News of the fleet: each reader hears each once, whatever the order of commits; its own and old ones never."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.ledger import fleet_news
from gateway.ledger.database import create_async_engine

NEWS = 6  # of an example


async def heard(connection: AsyncConnection, reader: UUID, seen: set[UUID]) -> list[int]:
    """The numbers that the unseen rows carry; from then on they are seen."""
    rows = await fleet_news.unseen(connection, reader, seen)
    seen |= {row.id for row in rows}
    return [digest["number"] for row in rows for digest in row.digests]


@settings(max_examples=15)
@given(st.permutations(range(NEWS)), st.lists(st.booleans(), min_size=NEWS, max_size=NEWS))
def test_each_is_heard_once_in_any_order_of_commits(
    database_url: str, commits: list[int], reads: list[bool]
) -> None:
    """All are published before the first is committed; readings lie in between."""

    async def whole(database: AsyncEngine) -> None:
        reader, seen, numbers = uuid4(), set[UUID](), Counter[int]()
        async with AsyncExitStack() as stack:
            reading = await stack.enter_async_context(database.connect())
            await reading.execution_options(isolation_level="AUTOCOMMIT")
            await heard(reading, reader, seen)  # what other examples left
            writers = [await stack.enter_async_context(database.connect()) for _ in range(NEWS)]
            for number, writer in enumerate(writers):
                await fleet_news.publish(writer, uuid4(), [{"number": number}])
            for number, reads_now in zip(commits, reads, strict=True):
                await writers[number].commit()
                if reads_now:
                    numbers.update(await heard(reading, reader, seen))
            numbers.update(await heard(reading, reader, seen))
        assert numbers == Counter(range(NEWS))

    async def with_database() -> None:
        database = create_async_engine(database_url, pool_size=NEWS + 1)
        await whole(database)
        await database.dispose()

    asyncio.run(with_database())


def test_ones_own_and_old_news_is_not_heard_and_the_oldest_is_forgotten(clean_database_url: str) -> None:
    async def whole() -> None:
        database = create_async_engine(clean_database_url)
        reader, other = uuid4(), uuid4()
        async with database.begin() as connection:
            for worker, number, age_s in ((reader, 1, 0), (other, 2, 0), (other, 3, 30), (other, 4, 3600)):
                await fleet_news.publish(connection, worker, [{"number": number}])
                aged = "UPDATE fleet_news SET at = at - make_interval(secs => :age_s) WHERE digests->0->'number' = :n"
                await connection.execute(text(aged), {"age_s": age_s, "n": str(number)})
        async with database.begin() as connection:
            (news,) = await fleet_news.unseen(connection, reader, set())
            assert news.digests == [{"number": 2}]
            assert 0.0 <= news.age_s < fleet_news.READ_BACK_S
            await fleet_news.forget(connection)
            left = await connection.scalars(text("SELECT digests->0->>'number' FROM fleet_news ORDER BY 1"))
            assert list(left) == ["1", "2", "3"]
        await database.dispose()

    asyncio.run(whole())


def test_several_may_forget_at_once(clean_database_url: str) -> None:
    """The second leaves to the first what that is about to delete, and waits for nothing."""

    async def whole() -> None:
        database = create_async_engine(clean_database_url)
        async with database.begin() as connection:
            await fleet_news.publish(connection, uuid4(), [])
            await connection.execute(text("UPDATE fleet_news SET at = at - interval '1 hour'"))
        async with database.connect() as first, database.connect() as second:
            await fleet_news.forget(first)
            await fleet_news.forget(second)
            await second.commit()
            await first.commit()
            assert await first.scalar(text("SELECT count(*) FROM fleet_news")) == 0
        await database.dispose()

    asyncio.run(asyncio.wait_for(whole(), 60.0))
