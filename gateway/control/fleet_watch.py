"""`FleetWatch`: what workers and gateways learn of targets, shared through Postgres; and a start that is warm from it.

In: a `SharedFleet`, which dispatch feeds, the database, where each target is. Out: `Fleet.absorb`. Targets that this
gateway does not know, or knows at another place, are left out. The data plane never waits for any of it: a database
that is away costs news, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Mapping
from uuid import UUID, uuid4

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.ledger import fleet_news, history
from gateway.ledger.fleet_news import News
from router.digest import COLLECTED_S, Digest
from router.fleet import Fleet
from router.outcome import Outcome
from router.waits import Began

log = logging.getLogger(__name__)
INTERVAL_S = COLLECTED_S  # news is known everywhere within 3 s
ANSWER_WITHIN_S = 3.0
START_WITHIN_S = 0.05  # a fresh ledger answers within milliseconds, a large one once calls are taken
FORGET_EVERY_S = 30.0
REMEMBERED_CALLS = 10.0  # what the ledger tells of a target and shape weighs no more than so many fresh calls
_NO_DIGEST = (AttributeError, KeyError, TypeError, ValueError)


class SharedFleet(Fleet):
    """A `Fleet` that also keeps, until it is taken, what its own calls taught."""

    def __init__(self, half_life_s: float) -> None:
        super().__init__(half_life_s)
        self._digests: dict[tuple[str, str], Digest] = {}

    def observe(self, outcome: Outcome, now: float, call: Began | None = None) -> None:
        super().observe(outcome, now, call)
        key = (outcome.target, outcome.shape)
        digest = self._digests.get(key)
        if digest is None:
            digest = self._digests[key] = Digest()
        digest.add(outcome)

    def take_digests(self) -> dict[tuple[str, str], Digest]:
        """By target and shape, since the last time."""
        taken, self._digests = self._digests, {}
        return taken


class FleetWatch:
    """One worker's part; `start` before the first call, then `step` every `INTERVAL_S`.

    `places` tells of each known target where it is (`gateway.config.places`).
    """

    def __init__(self, fleet: SharedFleet, database: AsyncEngine, places: Mapping[str, str]) -> None:
        self._fleet, self._database, self._places = fleet, database, places
        self._worker = uuid4()
        self._seen: dict[UUID, float] = {}  # when each was read
        self._forget_s = time.monotonic() + FORGET_EVERY_S
        self._is_warm = self._is_away = False
        self._warming: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to take in what the ledger knows, and waits for it a moment; `step` waits until it is done."""
        self._warming = asyncio.create_task(self._try(self._warm_up(), ANSWER_WITHIN_S))
        await asyncio.wait([self._warming], timeout=START_WITHIN_S)

    async def step(self) -> None:
        """Publishes what was learnt since the last step, and takes in what others published."""
        if self._warming is not None:
            await self._warming
            self._warming = None
        elif not self._is_warm:
            await self._try(self._warm_up(), ANSWER_WITHIN_S)
        await self._try(self._exchange(), ANSWER_WITHIN_S)

    async def _try(self, work: Awaitable[None], within_s: float) -> None:
        """Says once that the database is away, and once that it is back."""
        try:
            async with asyncio.timeout(within_s):
                await work
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            if not self._is_away:
                log.warning("nothing is heard of other workers for now: %s", type(error).__name__)
            self._is_away = True
        else:
            if self._is_away:
                log.info("other workers are heard again")
            self._is_away = False

    async def _warm_up(self) -> None:
        async with self._database.connect() as connection:
            digests = await history.recent_digests(connection)
        self._is_warm = True
        now = time.monotonic()
        for (target, shape), digest in digests.items():
            if target in self._places:
                factor = min(1.0, REMEMBERED_CALLS / digest.num_samples)
                self._fleet.absorb(target, shape, digest.scaled(factor), now)

    async def _exchange(self) -> None:
        rows = [
            {"target": target, "shape": shape, "place": self._places[target]} | digest.as_row()
            for (target, shape), digest in self._fleet.take_digests().items()
            if target in self._places
        ]
        async with self._database.begin() as connection:
            if rows:
                await fleet_news.publish(connection, self._worker, rows)
            if time.monotonic() >= self._forget_s:
                await fleet_news.forget(connection)
                self._forget_s = time.monotonic() + FORGET_EVERY_S
            heard = await fleet_news.unseen(connection, self._worker, self._seen)
        for news in heard:
            self._absorb(news)
            await asyncio.sleep(0)  # calls go first
        oldest = time.monotonic() - 2 * fleet_news.READ_BACK_S
        self._seen = {key: read_s for key, read_s in self._seen.items() if read_s > oldest}

    def _absorb(self, news: News) -> None:
        now = time.monotonic()
        self._seen[news.id] = now
        for row in news.digests:
            try:
                target, shape, digest = str(row["target"]), str(row["shape"]), Digest.from_row(row)
                is_ours = self._places.get(target) == row["place"]
            except _NO_DIGEST as error:  # of a version that writes them otherwise
                log.debug("news that this version cannot read: %s", error)
                continue
            if is_ours:
                self._fleet.absorb(target, shape, digest, now - max(0.0, news.age_s))
