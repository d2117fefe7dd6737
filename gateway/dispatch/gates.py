"""`Gate`: how many calls a target gets at a time, and who is next when one ends: callers take turns.

A full queue is said at once (`Busy`), so that another target is tried or the client hears 429 rather than waiting
for a deadline. A place that no call needs may be borrowed, and is given up as soon as one does (`Loan`). One event
loop; no lock.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable


class Busy(Exception):
    """The target serves as many calls as it may, and as many wait as may."""


class Gate:
    """`max_parallel` calls inside, `queue` waiting. `enter` before, `leave` after each call let in."""

    def __init__(self, max_parallel: int, queue: int) -> None:
        self.max_parallel, self.queue = max_parallel, queue
        self.inside = self.waiting = 0
        self._turns: OrderedDict[str, deque[asyncio.Future[None]]] = (
            OrderedDict()
        )  # by caller; the first is next
        self.loans: dict[Loan, None] = {}  # the oldest first

    async def enter(self, caller: str) -> None:
        """Returns when the call may go to the target. Raises `Busy`. Cancellation gives the place up."""
        if self.inside < self.max_parallel:
            self.inside += 1
            return
        if self.loans:
            next(iter(self.loans)).give_up()
            return
        if self.waiting >= self.queue:
            raise Busy(f"{self.inside} calls at a time, and {self.waiting} wait already")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns.setdefault(caller, deque()).append(turn)
        self.waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()  # it was let in just as it gave up
            else:
                self._forget(caller, turn)
            raise

    def leave(self) -> None:
        """A call has ended: its place goes to the next caller's oldest call."""
        if not self._turns:
            self.inside -= 1
            return
        caller, turns = self._turns.popitem(last=False)
        turn = turns.popleft()
        if turns:
            self._turns[caller] = turns  # at the end: the other callers come first
        self.waiting -= 1
        turn.set_result(None)

    def _forget(self, caller: str, turn: asyncio.Future[None]) -> None:
        turns = self._turns[caller]
        turns.remove(turn)
        self.waiting -= 1
        if not turns:
            del self._turns[caller]


class Loan:
    """A gate for what must cost calls nothing: entered only where a place is free, which the next call may take."""

    def __init__(self, gate: Gate, on_given_up: Callable[[], object]) -> None:
        """`on_given_up`: the place is another's now, so that whatever uses it has to end."""
        self._gate, self._on_given_up = gate, on_given_up

    async def enter(self, caller: str) -> None:
        """Raises `Busy`. Nobody waits."""
        gate = self._gate
        if gate.inside >= gate.max_parallel:
            raise Busy(f"{gate.inside} calls at a time")
        gate.inside += 1
        gate.loans[self] = None

    def leave(self) -> None:
        if self in self._gate.loans:
            del self._gate.loans[self]
            self._gate.leave()

    def give_up(self) -> None:
        """For a call, which has the place now."""
        del self._gate.loans[self]
        self._on_given_up()
