"""`Supervisor`: the keepers of one data directory, started as they are asked for, stopped in a given order.

In: parts. Out: running processes; `first_given_up` when a needed one cannot be started. Knows what a part is,
not what the parts are for (see `parts`, `main`).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from gateway.supervise.keeper import Keeper
from gateway.supervise.orphans import ChildRecord
from gateway.supervise.part import Part
from gateway.supervise.status import Board
from gateway.supervise.waiting import first_of


class Kept(Protocol):
    """What keeps one part running, in a task of its own."""

    gave_up: bool

    async def run(self) -> None: ...
    def stop(self) -> None: ...
    def hurry(self) -> None: ...


class Supervisor:
    """An async context manager; what still runs at its end is killed. `hurry` cuts every grace short."""

    def __init__(self, board: Board, record_path: Path, log_folder: Path, hurry: asyncio.Event) -> None:
        self._board, self._log_folder, self._hurry = board, log_folder, hurry
        self._record = ChildRecord(record_path)
        self._keepers: dict[str, Kept] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._keepers)

    def keep(self, part: Part) -> Keeper:
        """Start `part` and keep it running."""
        keeper = Keeper(part, self._board, self._record, self._log_folder)
        self.add(part.name, keeper)
        return keeper

    def add(self, name: str, keeper: Kept) -> None:
        """Run a keeper made elsewhere."""
        self._keepers[name] = keeper
        self._tasks[name] = asyncio.create_task(keeper.run(), name=f"keep {name}")

    async def first_given_up(self) -> str:
        """Wait until a needed part cannot be started, and name it."""
        while True:
            for name, task in self._tasks.items():
                if task.done() and self._keepers[name].gave_up:
                    return name
                if task.done() and (error := task.exception()) is not None:
                    raise error  # our own bug: let it be seen rather than leave a part unwatched
            await asyncio.sleep(0.1)

    def tell(self, names: Iterable[str], signum: signal.Signals) -> None:
        """Sends the processes of these parts a signal."""
        for name in names:
            if isinstance(keeper := self._keepers.get(name), Keeper):
                keeper.tell(signum)

    async def renew(self, names: Iterable[str]) -> None:
        """These parts anew, one after the other; where one is not ready again, those after it are left alone."""
        for name in names:
            keeper = self._keepers.get(name)
            if isinstance(keeper, Keeper) and not await keeper.renew():
                self._board.say(f"{name} is not ready again, so the parts after it are left as they are")
                return

    async def stop(self, names: Iterable[str]) -> None:
        """Stop these parts side by side, each within its own grace."""
        chosen = [name for name in names if name in self._keepers]
        for name in chosen:
            self._keepers[name].stop()
        all_over = asyncio.gather(*(self._tasks[name] for name in chosen), return_exceptions=True)
        await first_of(asyncio.wait([all_over]), self._hurry.wait())
        if self._hurry.is_set():
            for name in chosen:
                self._keepers[name].hurry()
        await all_over

    async def __aenter__(self) -> Supervisor:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._hurry.set()
        await self.stop(self.names)
