"""`HomeLedger`: which target keeps which response, for whom: on its way into Postgres, and read back from there.

In: ids of responses as targets give them. Out: a `Home`. Writing is a line in the spool; a reading is bounded, and
few run at a time, so that questions for ids that nobody knows leave connections to others.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.ledger import segments
from gateway.ledger.errors import DatabaseAway, LedgerFull
from gateway.ledger.records import utc
from gateway.ledger.spool import Spool
from gateway.ledger.tables import response_homes

READ_WITHIN_S = 0.5
MAX_READINGS = 2


@dataclass(frozen=True, slots=True)
class Home:
    """Where a response is, and whose it is."""

    target: str
    caller: str


class HomeLedger:
    """One worker's way to the homes that all workers know."""

    def __init__(self, database: AsyncEngine, spool: Spool) -> None:
        self._database, self._spool = database, spool
        self._places = asyncio.Semaphore(MAX_READINGS)
        self._given_up: set[asyncio.Task[Home | None]] = set()

    def write(self, response_id: str, home: Home) -> None:
        row = {"id": response_id, "target": home.target, "caller": home.caller}
        record = {"kind": "response_home", "response_home": row | {"created_at": utc(time.time())}}
        with contextlib.suppress(LedgerFull):  # counted by the spool; this worker knows it all the same
            self._spool.append(record)

    async def read(self, response_id: str) -> Home | None:
        """Raises `DatabaseAway` where it does not answer within READ_WITHIN_S."""
        reading = asyncio.create_task(self._read(response_id))
        try:
            await asyncio.wait({reading}, timeout=READ_WITHIN_S)
            if not reading.done():
                raise DatabaseAway(f"the database did not answer within {READ_WITHIN_S:g} s")
            return reading.result()
        except (SQLAlchemyError, OSError) as error:
            raise DatabaseAway(f"the database does not answer: {type(error).__name__}") from error
        finally:
            self._give_up(reading)

    async def is_behind(self, unix_s: float) -> bool:
        """Whether records of this data directory that were begun before then are still to come."""
        return await asyncio.to_thread(segments.has_older, self._spool.directory, unix_s)

    async def _read(self, response_id: str) -> Home | None:
        table = response_homes.c
        query = select(table.target, table.caller).where(table.id == response_id)
        async with self._places, self._database.connect() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else Home(row.target, row.caller)

    def _give_up(self, reading: asyncio.Task[Home | None]) -> None:
        """Nobody waits for its end: the driver takes seconds to leave a server that is silent."""
        if reading.done():
            return
        self._given_up.add(reading)
        reading.add_done_callback(self._left)
        reading.cancel()

    def _left(self, reading: asyncio.Task[Home | None]) -> None:
        self._given_up.discard(reading)
        if not reading.cancelled():
            reading.exception()  # seen
