"""`PostgresKeeper`: keeps the embedded Postgres of a data directory running, as a `Keeper` keeps a process.

In: the data directory. Out: the server's URL once it takes connections. The server is no child of ours
(pg_ctl makes it a daemon), so it is watched through its own pid file. Knows nothing of tables.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from gateway.ledger import embedded
from gateway.ledger.errors import EmbeddedPostgresError
from gateway.supervise.backoff import delay_s, failures_in_a_row
from gateway.supervise.parts import POSTGRES
from gateway.supervise.status import Board
from gateway.supervise.waiting import first_of

_LOOK_S = 1.0


class PostgresKeeper:
    """`first_url` gets the server's URL, which stays the same from then on. The first start must succeed."""

    def __init__(self, data_dir: Path, board: Board) -> None:
        self.gave_up = False
        self.first_url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._data_dir, self._board = data_dir, board
        self._stopping = asyncio.Event()
        board.show(POSTGRES, "waiting")

    def stop(self) -> None:
        self._stopping.set()

    def hurry(self) -> None:
        """Its shutdown is the fast one already: sessions are cut, what is committed is written."""
        self._stopping.set()

    async def run(self) -> None:
        failures = 0
        while not self._stopping.is_set() and not self.gave_up:
            began = time.monotonic()
            reason = await self._live_once()
            if self._stopping.is_set() or self.gave_up:
                break
            failures = failures_in_a_row(failures, time.monotonic() - began)
            self._board.show(POSTGRES, "restarting", f"{reason}; again in {delay_s(failures):g} s")
            await first_of(self._stopping.wait(), timeout_s=delay_s(failures))
        if self._stopping.is_set():
            self._board.show(POSTGRES, "stopping")
            await asyncio.to_thread(embedded.stop, self._data_dir)
        self._board.show(POSTGRES, "stopped")

    async def _live_once(self) -> str:
        began = time.monotonic()
        adopted = await asyncio.to_thread(embedded.running_url, self._data_dir) is not None
        self._board.show(POSTGRES, "starting")
        try:
            url = await asyncio.to_thread(embedded.start, self._data_dir)
        except EmbeddedPostgresError as error:
            if not self._stopping.is_set():
                self._board.say(str(error))
            self.gave_up = not self.first_url.done()
            return "did not start"
        how = "was running already" if adopted else f"{time.monotonic() - began:.1f} s"
        self._board.show(POSTGRES, "ready", how)
        if not self.first_url.done():
            self.first_url.set_result(url)
        while await asyncio.to_thread(embedded.running_url, self._data_dir) is not None:
            await first_of(self._stopping.wait(), timeout_s=_LOOK_S)
            if self._stopping.is_set():
                return "stopped"
        return "is gone"
