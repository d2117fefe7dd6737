"""Workers on one database share a key's limits: in all no more than one worker would grant, and hardly less."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import wraps
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.callers.keys import Key, KeyLimits
from gateway.callers.quotas import Grant, Quotas, Refused
from gateway.callers.spending import Spending
from gateway.control.quota_watch import QuotaWatch
from gateway.ledger.database import create_async_engine
from tests.gateway.conftest import eventually

SECONDS = 60.0


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(*given: Any, **named: Any) -> None:
        asyncio.run(test(*given, **named))

    return run


class Worker:
    """One worker's quotas, kept in step as in a gateway."""

    def __init__(self, database: AsyncEngine) -> None:
        self.quotas = Quotas(Spending())
        self.watch = QuotaWatch(self.quotas, database, uuid4().hex)

    async def _run(self) -> None:
        while True:
            await self.watch.pause()
            await self.watch.step()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Worker]:
        await self.watch.start()
        steps = asyncio.create_task(self._run())
        try:
            yield self
        finally:
            steps.cancel()
            await asyncio.gather(steps, return_exceptions=True)
            await self.watch.aclose()

    def grant(self, key: Key, tokens: int = 1) -> Grant | None:
        try:
            return self.quotas.admit(key, "m", tokens, time.time())
        except Refused:
            return None


def key(**limits: object) -> Key:
    return Key(uuid4(), "app", "sg-0123", "call", KeyLimits(**limits))  # type: ignore[arg-type]


@asynccontextmanager
async def fleet(url: str, count: int) -> AsyncIterator[list[Worker]]:
    """Workers that know of each other."""
    database = create_async_engine(url, pool_size=2 * count)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.dispose)
        workers = [await stack.enter_async_context(Worker(database).running()) for _ in range(count)]
        await eventually(lambda: all(worker.watch.num_workers >= count for worker in workers))
        yield workers


@in_a_loop
async def test_three_workers_grant_what_one_would(clean_database_url: str) -> None:
    limited = key(rpm=600)
    alone, granted, alone_granted = Quotas(Spending()), 0, 0
    async with fleet(clean_database_url, 3) as workers:
        began = time.monotonic()
        while time.monotonic() < began + 3.0:
            for worker in workers:
                for _ in range(5):
                    granted += worker.grant(limited) is not None
                    try:
                        alone.admit(limited, "m", 1, time.time())
                        alone_granted += 1
                    except Refused:
                        pass
            await asyncio.sleep(0.01)
    assert alone_granted * 0.9 <= granted <= alone_granted * 1.02


@in_a_loop
async def test_one_worker_may_use_what_the_others_do_not(clean_database_url: str) -> None:
    limited = key(rpm=600)
    async with fleet(clean_database_url, 3) as (one, *_):
        granted = 0
        async with asyncio.timeout(SECONDS):
            while granted < 595:  # a third of it at once
                granted += one.grant(limited) is not None
                await asyncio.sleep(0.002)
        shown = one.quotas.admit(key(tpm=5), "m", 1, time.time()).headers()
        assert shown["x-ratelimit-limit-tokens"] == "5"


@in_a_loop
async def test_places_of_calls_that_run_are_nobody_elses(clean_database_url: str) -> None:
    limited = key(parallel=6)
    async with fleet(clean_database_url, 3) as workers:
        one, two, _ = workers
        grants: list[Grant] = []
        async with asyncio.timeout(SECONDS):
            while len(grants) < 6:
                if grant := one.grant(limited):
                    grants.append(grant)
                await asyncio.sleep(0.01)
        await asyncio.sleep(1.0)
        refused = [worker.grant(limited) is None for worker in workers for _ in range(3)]
        assert all(refused)
        for grant in grants:
            grant.settle()
        await eventually(lambda: two.grant(limited) is not None)


@in_a_loop
async def test_a_worker_cut_off_goes_on_with_its_equal_share(clean_database_url: str) -> None:
    limited = key(rpm=60)
    async with fleet(clean_database_url, 2) as (one, two):
        await eventually(lambda: not one.grant(limited) and not two.grant(limited))
        later = time.time() + 3.0  # nothing was heard for so long
        share = next(share for _, _, share in one.quotas.shares())
        share.refill(later)
        share.refill(later + 30.0)
        assert not share.is_pooled
        assert 13.0 <= share.level <= 17.0  # the half of 60 a minute, for 33 s


@in_a_loop
async def test_who_leaves_is_not_waited_for_and_who_is_alone_has_it_all(clean_database_url: str) -> None:
    async with fleet(clean_database_url, 1) as (one,):
        async with fleet(clean_database_url, 2):
            assert one.watch.num_workers >= 1
        await eventually(lambda: one.watch.num_workers == 1)
        limited = key(rpm=50)
        assert sum(one.grant(limited) is not None for _ in range(60)) == 50
        database = create_async_engine(clean_database_url)
        async with database.connect() as connection:
            assert await connection.scalar(text("SELECT count(*) FROM quota_workers")) == 1
            assert await connection.scalar(text("SELECT count(*) FROM quota_pools")) == 0
        await database.dispose()


@pytest.mark.parametrize("workers", [1, 3])
@in_a_loop
async def test_a_key_that_is_used_little_costs_the_database_nothing(
    clean_database_url: str, workers: int
) -> None:
    limited = key(rpm=600, tpm=60_000, parallel=30)
    async with fleet(clean_database_url, workers) as (one, *_):
        for _ in range(10):
            grant = one.grant(limited)
            assert grant is not None
            grant.settle()
        await asyncio.sleep(0.5)
        database = create_async_engine(clean_database_url)
        async with database.connect() as connection:
            assert await connection.scalar(text("SELECT count(*) FROM quota_pools")) == 0
        await database.dispose()


@in_a_loop
async def test_a_database_that_comes_back_empty_gives_no_second_limit(clean_database_url: str) -> None:
    """As after a crash: what is kept of limits is not logged by Postgres."""
    limited = key(rpm=600)
    async with fleet(clean_database_url, 3) as workers:
        began, granted = time.monotonic(), 0

        async def ask_for(seconds: float) -> None:
            nonlocal granted
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                granted += sum(worker.grant(limited) is not None for worker in workers)
                await asyncio.sleep(0.003)

        await ask_for(4.0)
        assert granted > 570
        databases = [worker.watch._database for worker in workers]
        for worker in workers:
            worker.watch._database = create_async_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")
        await ask_for(4.0)
        async with databases[0].connect() as connection:
            await connection.execute(text("TRUNCATE quota_pools, quota_workers"))
        for worker, database in zip(workers, databases, strict=True):
            await worker.watch._database.dispose()
            worker.watch._database = database
            await asyncio.sleep(0.3)
        await ask_for(6.0)
        allowed = 600 + 10 * (time.monotonic() - began)
    assert 0.9 * allowed < granted < 1.02 * allowed
