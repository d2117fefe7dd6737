"""`KeyWatch`: the API keys in force and what their callers have spent, read every two seconds, so that no call waits
for the database.

A database that is away changes nothing: the last ring stays, less the keys that expire meanwhile.
"""

from __future__ import annotations

import logging
import time

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.callers.keys import KeyRing
from gateway.callers.spending import Spending, day_of
from gateway.callers.store import load_ring
from gateway.callers.usage import snapshot
from gateway.control.away import Away

log = logging.getLogger(__name__)
INTERVAL_S = 2.0


class KeyWatch:
    """One worker's ring of keys, and its view of spending. `refresh` before use, then `step` every `INTERVAL_S`."""

    def __init__(self, database: AsyncEngine) -> None:
        self._database = database
        self._away = Away(
            log, "keys stay as they are, as the database is away: %s", "keys are refreshed again"
        )
        self.ring = KeyRing()
        self.spending = Spending()

    async def refresh(self) -> None:
        """Raises `SQLAlchemyError`."""
        asked = self.spending.end_batch()
        async with self._database.connect() as connection:
            ring = await load_ring(connection)  # before the snapshot, which then knows all of its budgets
            spent = await snapshot(connection, day_of(time.time()), asked)
        self.spending.take(spent)
        self.ring = ring

    async def step(self) -> None:
        try:
            await self.refresh()
        except SQLAlchemyError as error:
            self._away.failed(error)
        else:
            self._away.worked()
        self.ring = self.ring.in_force(time.time())
