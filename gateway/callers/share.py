"""`Share`: what one worker may use of one limit of one caller now. No I/O.

In: calls, the time, slices of the common `Pool`. Out: whether there is room, and `Report`s.

*Apart* from the others a share is a bucket of its own that holds limit ÷ workers and refills by as much a minute: so it
is where a worker is alone, until a key is first used, and when nothing was heard for `SILENT_S`. *Pooled* it is a
slice, and only the next one fills it again. A call that finds its slice too small, while there was more in the pool,
may overdraw a little: the next report takes that from the pool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil

from gateway.callers.pools import NOTHING, Report

MINUTE_S = 60.0
AHEAD_S = 0.4  # how far a slice should reach at the pace that was last seen
OPEN_BELOW = 0.75  # of an equal share: keys that are used less cost the database nothing
SILENT_S = 2.0
ANSWERED_S = 0.05  # how long a report takes
POLL_S = 1.0  # how old what is known of a pool may become
POLL_SHORT_S = 0.2  # the same while the pool is less than half full
OVERDRAFT = 0.02  # of the limit, over all workers
_PACE_S = 0.5  # by when half of an old pace is forgotten
_NO_PACE = 0.01


class Share:
    """`level` may be used now: below 0 after a call that used more than it had reserved, or overdrew.

    `on_short` is called when a slice runs low: the sooner there is a report, the better.
    """

    __slots__ = (
        *("_asked", "_at", "_base", "_heard_s", "_largest", "_num_asked", "_on_short", "_overdraft", "_pace"),
        *("_slice", "_total", "is_pooled", "is_short", "level", "limit", "per_s", "size", "workers"),
    )

    def __init__(self, limit: int, workers: int, now: float, on_short: Callable[[], None]) -> None:
        self.limit, self.workers, self._on_short = limit, workers, on_short
        self.is_pooled = self.is_short = False
        self._at = self._heard_s = now
        self._asked = self._largest = self._overdraft = self._pace = self._slice = self._total = 0.0
        self._num_asked = 0
        self._divide()
        self.level = self._base = self.size  # `_base`: without the calls since the last report

    def _divide(self) -> None:
        self.per_s = self.limit / self.workers / MINUTE_S
        self.size = max(1.0, self.limit / self.workers)

    @property
    def pool_per_s(self) -> float:
        """How fast the pool of all workers fills."""
        return self.limit / MINUTE_S

    @property
    def apart(self) -> float:
        """What a worker may have at once that is cut off, though its slice be smaller."""
        return 0.0

    @property
    def used(self) -> float:
        """Since the last report, less what was refilled here."""
        return self._base - self.level

    def resize(self, limit: int) -> None:
        """Another limit. What is in it stays, as far as it fits."""
        if limit == self.limit:
            return
        self.limit = limit
        self._divide()
        if not self.is_pooled:
            self.level, self._base = min(self.level, self.size), self.size

    def share_with(self, workers: int) -> None:
        """So many there are now, this one included. What was used stays used."""
        used, missing, self.workers = self.used, self.size - self.level, workers
        self._divide()
        if self.is_pooled and workers == 1:
            self._part(self._total - used)
            self._begin()
        elif not self.is_pooled:
            self._part(self.size - max(used, missing))

    def _begin(self) -> None:
        """Nobody is left to be told what was used: it is a bucket that has been apart from the start."""
        self._base = self.size

    @property
    def opens_at(self) -> float:
        """What a new pool has, before the next report: all of the limit, but after a pool that is lost what is left if
        all workers stand as this one."""
        if abs(self._base - self.size) < NOTHING:
            return float(self.limit)
        return min(self.limit, max(0.0, self.level) * self.workers) + self.used

    def refill(self, now: float) -> None:
        """A clock that was set back refills nothing until it goes on."""
        if self.is_pooled and now - self._heard_s > SILENT_S:
            self._part(self.level)
        if not self.is_pooled and now > self._at and self.level < self.size:
            self.level = min(self.size, self.level + (now - self._at) * self.per_s)
        self._at = now

    def _part(self, level: float) -> None:
        """Apart from now on, with this level."""
        self._base += level - self.level
        self.level, self.is_pooled, self._slice = level, False, 0.0

    def has_room(self, amount: float) -> bool:
        """For a call of this amount, which counts as asked for."""
        self._asked += amount
        self._num_asked += 1
        left = self.level - amount
        if left < 0.0 and self._largest < amount:
            self._largest = amount
        if not self.is_short and self.workers > 1 and left < 0.5 * (self._slice or self.size):
            self.is_short = True
            self._on_short()
        if self.is_pooled:
            return left >= -self._overdraft
        # A share may be too small for a call that the whole limit allows.
        return left >= 0.0 or self.level >= self.size

    def give_back(self, amount: float) -> None:
        """Takes some more where `amount` is negative."""
        self.level += amount
        if self.level > self.size and not self.is_pooled:
            self.level = self.size

    def stands(self) -> tuple[int, float]:
        """What is left of the whole limit, and in how many seconds it will be full: as last heard, less what was used
        since; apart, as if all workers' shares stood as this one."""
        if self.is_pooled:
            left = max(0.0, self._total - self.used)
            return int(left), (self.limit - left) * MINUTE_S / self.limit
        return min(self.limit, max(0, int(self.level)) * self.workers), (self.size - self.level) / self.per_s

    def wait_s(self, amount: float) -> float:
        """How long until there may be room."""
        if self.is_pooled:
            return max(POLL_SHORT_S, (amount - self._total + self.used) * MINUTE_S / self.limit)
        return (min(amount, self.size) - self.level) / self.per_s

    def is_due(self, now: float) -> bool:
        """Whether the pool should be told, or asked."""
        if not self.is_pooled:
            return self.workers > 1 and (self.is_short or self.level < OPEN_BELOW * self.size)
        since_s = now - self._heard_s
        return self.is_short or since_s >= POLL_S or (since_s >= POLL_SHORT_S and self._is_low())

    def _is_low(self) -> bool:
        """Whether others may need what is held here."""
        return self._total < self.limit / 2

    def report(self, now: float) -> Report:
        """What the pool is told; its answer goes to `take`."""
        since_s = max(0.05, now - self._heard_s)
        self._pace = max(self._asked / since_s, self._pace * 0.5 ** (since_s / _PACE_S))
        unit = max(1.0, self._asked / self._num_asked) if self._num_asked else 1.0
        return Report(self.used, 0.0, min(self.limit, self._wanted(unit)), unit)

    def _wanted(self, unit: float) -> float:
        return max(self._pace * AHEAD_S, unit, self._largest) if self._pace > _NO_PACE else 0.0

    def take(self, report: Report, amount: float, total: float, free: float, now: float) -> None:
        """The answer to `report`: a slice, what is left over all workers, and what none of them holds."""
        self.level += amount - self._base + report.used
        self._base = self._slice = amount
        self._hear(total, free, report.unit, now)

    def join(self, total: float, free: float, now: float) -> None:
        """Others have opened a pool. What was used here is told next, and this equal share given to who needs it."""
        if self.used <= 0.0:
            self._hear(total, free, 1.0, now)
            self.level = self._base = self._slice = 0.0
        self.is_short = True

    def leave(self) -> None:
        """The pool is full and nobody uses it: it was closed."""
        self.is_pooled, self.is_short, self._slice = False, False, 0.0
        self.level, self._base = self.size - self.used, self.size

    def _hear(self, total: float, free: float, unit: float, now: float) -> None:
        self.is_pooled, self.is_short = True, False
        self._total, self._heard_s = total, now
        self._asked = self._largest = 0.0
        self._num_asked = 0
        self._overdraft = min(max(0.0, free), max(unit, self.limit * OVERDRAFT / self.workers))


class Places(Share):
    """Calls at once: what is used are calls that run, and their places come back when they end. Never overdrawn."""

    __slots__ = ("_told_s",)

    def __init__(self, limit: int, workers: int, now: float, on_short: Callable[[], None]) -> None:
        super().__init__(limit, workers, now, on_short)
        self._told_s = now

    @property
    def pool_per_s(self) -> float:
        """Only another limit leaves it less than full."""
        return float(self.limit)

    @property
    def apart(self) -> float:
        return self.size

    def _divide(self) -> None:
        self.per_s = 0.0
        self.size = float(max(1, self.limit // self.workers))

    def _begin(self) -> None:
        pass

    @property
    def opens_at(self) -> float:
        return float(self.limit)

    def resize(self, limit: int) -> None:
        running, self.limit = self.used, limit
        self._divide()
        if not self.is_pooled:
            self.level, self._base = self.size - running, self.size

    def refill(self, now: float) -> None:
        gave_up = self.is_pooled or self._base < self.size
        if gave_up and now - (self._heard_s if self.is_pooled else self._told_s) > SILENT_S:
            self._part(self.size - self.used)

    def report(self, now: float) -> Report:
        """Calls that run keep their places, and use nothing up. What is not needed until the answer is given up now:
        a place that a call took meanwhile might be another worker's then."""
        report, running = super().report(now), self.used
        kept = min(self.level, ceil(self._pace * ANSWERED_S) if self._pace > _NO_PACE else 0.0)
        self._base += kept - self.level
        self.level, self._told_s = kept, now
        return replace(report, used=0.0, held=running + max(0.0, kept))

    def _hear(self, total: float, free: float, unit: float, now: float) -> None:
        super()._hear(total, 0.0, unit, now)

    def _wanted(self, unit: float) -> float:
        return float(self._largest > 0.0)

    def _is_low(self) -> bool:
        return True
