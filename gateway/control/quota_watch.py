"""`QuotaWatch`: this worker's shares of callers' limits, kept in step with all other workers' through Postgres.

In: `Quotas`, the database. Out: new slices, while they are needed. No call waits for any of it. Where the database
is away, or nobody else is there, each share refills by itself (`callers.share`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from typing import Any, NamedTuple
from uuid import uuid4

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.callers import pool_store
from gateway.callers.pool_store import Name, Stored
from gateway.callers.pools import Pool, Report, Workers
from gateway.callers.quotas import Quotas
from gateway.callers.share import Share
from gateway.control.away import Away

log = logging.getLogger(__name__)
SEEN_EVERY_S = 1.0
TOLD_EVERY_S = 0.1
LOOK_EVERY_S = 0.2
LOOK_ALL_EVERY_S = 1.0
LOOK_BACK_S = 1.0
SOON_S = 0.02  # the least between two reports
FORGET_EVERY_S = 30.0
ANSWER_WITHIN_S = 2.0
MAX_POOLS = 500  # a report; what is left waits for the next
RETURN_S = 5.0  # within which all workers are seen again after the database was away
TRIES = 3  # where others write the same pools at the same time


class _Change(NamedTuple):
    """What is to be written, and the answer to a share's report."""

    version: int
    pool: Pool
    report: Report
    amount: float
    free: float


class QuotaWatch:
    """One worker's part; `start` before the first call, then `step` again and again, `aclose` at the end.

    `place` names where it runs, so that a worker that died there is replaced by this one.
    """

    def __init__(self, quotas: Quotas, database: AsyncEngine, place: str) -> None:
        self._quotas, self._place = quotas, place
        # No lock outlives a statement.
        self._database = database.execution_options(isolation_level="AUTOCOMMIT")
        self._worker = uuid4().hex
        self._workers = Workers((self._worker,))
        self._short = asyncio.Event()
        self._seen_s = self._look_s = self._look_all_s = self._forget_s = 0.0  # when next
        self._settled_s = 0.0  # from when on nobody is late because the database was away
        self._away = Away(log, "limits are kept by equal shares for now: %s", "limits are shared again")
        quotas.on_short = self._short.set

    @property
    def num_workers(self) -> int:
        """Over all gateways, as far as is known."""
        return self._workers.count

    async def start(self) -> None:
        """Waits, where other gateways are there, until they have noticed and left this one its share. Raises
        `SQLAlchemyError`."""
        async with self._database.connect() as connection:
            await pool_store.appear(connection, self._worker, self._place)
        await self._see_workers(time.monotonic())
        if self._workers.count > self._quotas.least_workers:
            await asyncio.sleep(SEEN_EVERY_S + TOLD_EVERY_S)
            await self._see_workers(time.monotonic())
        await self._look(time.monotonic())

    async def aclose(self) -> None:
        """Gives everything back."""
        await self._try(self._leave())

    async def step(self) -> None:
        """Tells and asks what is due."""
        await self._try(self._exchange())

    async def pause(self) -> None:
        """Until there may be something to tell, but not for long."""
        with_others = self._workers.count > 1
        try:
            async with asyncio.timeout(TOLD_EVERY_S if with_others else SEEN_EVERY_S):
                await self._short.wait()
            await asyncio.sleep(SOON_S)
        except TimeoutError:
            pass
        self._short.clear()

    async def _try(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await work
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            self._away.failed(error)
            self._settled_s = time.monotonic() + RETURN_S
        else:
            self._away.worked()

    async def _exchange(self) -> None:
        now = time.monotonic()
        if now >= self._seen_s:
            await self._see_workers(now)
        if self._workers.count == 1:
            return
        await self._report()
        if now >= self._look_s:
            await self._look(now)

    async def _see_workers(self, now: float) -> None:
        async with self._database.connect() as connection:
            await pool_store.seen(connection, self._worker, self._place)
            if now >= self._forget_s:
                await pool_store.forget(connection)
                self._forget_s = now + FORGET_EVERY_S
            found = await pool_store.workers(connection)
            if now < self._settled_s and found.count < self._workers.count:
                known = {*self._workers.present, *self._workers.absent}
                found = Workers(found.present, tuple(known - {*found.present}))
            if found.count == 1 and self._workers.count > 1:
                await pool_store.clear(connection)
        self._workers = found
        self._quotas.share_with(self._workers.count)
        self._seen_s = now + SEEN_EVERY_S

    async def _look(self, now: float) -> None:
        """Which limits are in use anywhere: all of them once a second, else those that came into use just now."""
        sees_all = now >= self._look_all_s
        async with self._database.connect() as connection:
            now_s, pools = await pool_store.look(connection, None if sees_all else LOOK_BACK_S)
            if sees_all:
                self._look_all_s = now + LOOK_ALL_EVERY_S
            heard = {name: (pool.level, pool.free(now_s)) for name, (_, pool) in pools.items() if pool}
            self._quotas.hear(heard, time.time(), is_all=sees_all)
            await self._decline(connection, pools)
        self._look_s = now + LOOK_EVERY_S

    async def _decline(self, connection: AsyncConnection, pools: Mapping[Name, Stored]) -> None:
        """Gives back what others keep for this worker of limits that it does not use."""
        used = {(caller, kind) for caller, kind, _ in self._quotas.shares()}
        declined = {
            name: Stored(version, pool.without(self._worker))
            for name, (version, pool) in pools.items()
            if pool and self._worker in pool.slices and name not in used
        }
        if declined:
            await pool_store.write(connection, declined)

    async def _report(self) -> None:
        """Tells and asks the pools of all shares that are due."""
        now = time.time()
        due: dict[Name, Share] = {}
        for caller, kind, share in self._quotas.shares():
            share.refill(now)
            if share.is_due(now) and len(due) < MAX_POOLS:
                due[caller, kind] = share
        for _ in range(TRIES):
            if due:
                async with self._database.connect() as connection:
                    due = await self._report_once(connection, due)

    async def _report_once(self, connection: AsyncConnection, due: dict[Name, Share]) -> dict[Name, Share]:
        """Those are left that others wrote to just now."""
        now_s, stored = await pool_store.read(connection, list(due))
        changes: dict[Name, _Change] = {}
        for (name, share), (version, pool) in zip(due.items(), stored, strict=True):
            opens_at = share.opens_at
            report = share.report(time.time())
            if report.is_quiet and (pool is None or pool.is_idle(share.limit, now_s)):
                share.leave()
                if pool is not None:
                    await pool_store.close(connection, name, version)
                continue
            pool = pool or Pool.opened(share.limit, self._worker, self._workers, now_s, opens_at)
            size, per_s, apart = share.limit, share.pool_per_s, share.apart
            changed, amount = pool.shared(size, per_s, self._worker, report, self._workers, now_s, apart)
            changes[name] = _Change(version, changed, report, amount, changed.free(now_s))
        read = {name: Stored(change.version, change.pool) for name, change in changes.items()}
        written = await pool_store.write(connection, read) if read else set()
        for name in written:
            change = changes[name]
            due[name].take(change.report, change.amount, change.pool.level, change.free, time.time())
        return {name: due[name] for name in changes if name not in written}

    async def _leave(self) -> None:
        if self._workers.count > 1:
            await self._report()
        async with self._database.connect() as connection:
            await pool_store.disappear(connection, self._worker)
