"""How many sequences may be open, over all and for one caller; who is refused, and for how long.

`enter`, `leave` and `refusal` may be called from any thread. Knows no queue order: only counts.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import QueueFull


@dataclass(frozen=True, slots=True)
class PlaceLimits:
    """Running sequences, and waiting ones: over all, and of one named caller."""

    max_batch: int
    max_waiting: int
    max_waiting_per_caller: int


class Places:
    """Counts of open and running sequences by caller.

    While batch places are free, that many sequences more may wait, since they begin with the next step.
    Requests without a caller's name are held to the common limit only: they may come from anyone.
    `turn_s` is asked how long the next batch place will take to become free, None where nobody knows.
    """

    def __init__(self, limits: PlaceLimits, turn_s: Callable[[], float | None]) -> None:
        self.limits, self._turn_s = limits, turn_s
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()
        self._running: Counter[str] = Counter()

    @property
    def num_open(self) -> int:
        """Sequences that came in and have not ended."""
        return self._open.total()

    def enter(self, caller: str) -> None:
        """Take a place. Raises `QueueFull`."""
        with self._lock:
            refusal = self._refusal(caller)
            if refusal is not None:
                raise refusal
            self._open[caller] += 1

    def refusal(self, caller: str) -> QueueFull | None:
        """What `enter` would raise, found without entering."""
        with self._lock:
            return self._refusal(caller)

    def began(self, caller: str) -> None:
        with self._lock:
            self._running[caller] += 1

    def paused(self, caller: str) -> None:
        """A running one has to wait again."""
        with self._lock:
            _decrease(self._running, caller)

    def leave(self, caller: str, *, was_running: bool) -> None:
        with self._lock:
            _decrease(self._open, caller)
            if was_running:
                _decrease(self._running, caller)

    def _refusal(self, caller: str) -> QueueFull | None:
        limits, num_running = self.limits, self._running.total()
        starting = max(0, limits.max_batch - num_running)
        if self._open.total() - num_running >= limits.max_waiting + starting:
            # Any sequence's end frees a place.
            return self._full(f"All {limits.max_waiting} waiting places are taken", turns=1)
        if caller and self._num_waiting(caller) >= limits.max_waiting_per_caller + starting:
            # One of the caller's own has to begin: callers take turns.
            turns = sum(1 for other in self._open if self._num_waiting(other) > 0)
            return self._full(
                f"All {limits.max_waiting_per_caller} waiting places of this caller are taken", turns
            )
        return None

    def _num_waiting(self, caller: str) -> int:
        return self._open[caller] - self._running[caller]

    def _full(self, what: str, turns: int) -> QueueFull:
        turn_s = self._turn_s()
        wait_s = 1 if turn_s is None else max(1, math.ceil(turns * turn_s))
        return QueueFull(f"{what}; a place is expected in about {wait_s} s.", retry_after_s=wait_s)


def _decrease(counts: Counter[str], key: str) -> None:
    """One less; a key at zero is dropped, or callers long gone would pile up."""
    assert counts[key] > 0, "more left than came"
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
