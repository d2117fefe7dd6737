"""`KeyWatch`: the API keys in force, read every two seconds, so that no call waits for the database.

A database that is away changes nothing: the last ring stays.
"""

from __future__ import annotations

import logging

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.callers.keys import KeyRing
from gateway.callers.store import load_ring

log = logging.getLogger(__name__)
INTERVAL_S = 2.0


class KeyWatch:
    """One worker's ring of keys. `refresh` before use, then `step` every `INTERVAL_S`."""

    def __init__(self, database: AsyncEngine) -> None:
        self._database = database
        self.ring = KeyRing()

    async def refresh(self) -> None:
        """Raises `SQLAlchemyError`."""
        async with self._database.connect() as connection:
            self.ring = await load_ring(connection)

    async def step(self) -> None:
        try:
            await self.refresh()
        except SQLAlchemyError as error:
            log.warning("keys not refreshed: %s", type(error).__name__)
