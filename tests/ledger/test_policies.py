"""One version of the policy is active everywhere, and a file speaks up only when it changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.ledger import policies, tables
from gateway.ledger.database import create_async_engine
from gateway.ledger.records import uuid7

FILE = "file:host:/etc/policy.yaml"


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url)
    try:
        yield engine
    finally:
        await engine.dispose()


def in_one_transaction(url: str, work: Callable[[AsyncConnection], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with connected(url) as engine, engine.begin() as connection:
            return await work(connection)

    return asyncio.run(run())


def test_nothing_is_active_at_first(clean_database_url: str) -> None:
    assert in_one_transaction(clean_database_url, policies.newest_active) is None


def test_a_file_publishes_only_when_it_changed_since_it_last_did(clean_database_url: str) -> None:
    async def work(connection: AsyncConnection) -> list[object]:
        seen: list[object] = [await policies.publish_from_file(connection, FILE, "h1", "one")]
        seen.append(await policies.publish_from_file(connection, FILE, "h1", "one"))
        await policies.publish(connection, "dashboard", "h2", "two")
        seen.append(
            await policies.publish_from_file(connection, FILE, "h1", "one")
        )  # must not undo the dashboard
        seen.append((await policies.newest_active(connection) or [None] * 4)[2])
        seen.append(await policies.publish_from_file(connection, FILE, "h3", "three"))
        seen.append(await policies.publish_from_file(connection, FILE, "h1", "one"))
        seen.append((await policies.newest_active(connection) or [None] * 4)[1])
        return seen

    assert in_one_transaction(clean_database_url, work) == [True, False, False, "two", True, True, "h1"]


def test_a_refused_text_is_kept_once_and_never_active(clean_database_url: str) -> None:
    async def work(connection: AsyncConnection) -> list[object]:
        await policies.publish_from_file(connection, FILE, "good", "yaml")
        seen: list[object] = [await policies.record_refused(connection, FILE, "bad", "ymal", "line 1: …")]
        seen.append(await policies.record_refused(connection, FILE, "bad", "ymal", "line 1: …"))
        active = await policies.newest_active(connection)
        seen.append(active and active.hash)
        recent = await policies.recent(connection)
        seen.append([(version.hash, version.error) for version in recent])
        yaml = tables.policies.c.yaml
        seen.append(await connection.scalar(select(yaml).where(tables.policies.c.id == recent[0].id)))
        return seen

    found = in_one_transaction(clean_database_url, work)
    assert found == [True, False, "good", [("bad", "line 1: …"), ("good", None)], "ymal"]


def test_workers_that_see_a_change_at_once_publish_it_once(clean_database_url: str) -> None:
    async def one(engine: AsyncEngine) -> bool:
        async with engine.begin() as connection:
            return await policies.publish_from_file(connection, FILE, "h", "text")

    async def run() -> list[bool]:
        async with connected(clean_database_url) as engine:
            return await asyncio.gather(*(one(engine) for _ in range(6)))

    assert sorted(asyncio.run(run())) == [False] * 5 + [True]


def test_publishing_comes_after_what_is_there_whatever_the_clock(clean_database_url: str) -> None:
    async def work(connection: AsyncConnection) -> list[str]:
        ahead = {"id": uuid7(4_000_000_000), "hash": "of another host", "yaml": "", "source": "api"}
        await connection.execute(insert(tables.policies).values(ahead))
        for number in range(3):
            await policies.publish(connection, "api", f"h{number}", "text")
        return [version.hash for version in await policies.recent(connection)]

    assert in_one_transaction(clean_database_url, work) == ["h2", "h1", "h0", "of another host"]
