"""`Pool`: what is left of one limit of one caller over all workers and gateways, and which worker holds how much of it.

In: a worker's `Report` of what it has used and would like, which workers there are, the time. Out: the pool after it,
and the worker's new slice. Pure values; `callers.pool_store` keeps them in Postgres, `callers.share` spends a slice.

Nothing is in two slices: what all workers hold together is never more than what is left. A worker that is not heard
keeps its slice for as long as it counts as cut off, since it spends it without saying so; nobody has it after that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

SLICE_S = 3.0  # how long a slice stands without a word from its worker, or of it
REFILLS_S = 3.0  # a pool that was not written to for longer was out of reach: workers refilled by themselves
IDLE_S = 2.0
SHORT_S = 0.5  # how long after one got less than it wanted nobody gets more than it wants
NOTHING = 1e-6  # what sums of fractions may be off


@dataclass(frozen=True, slots=True)
class Report:
    """One worker's news of one limit, in its unit (calls, tokens).

    `used` since its last report, below 0 where more came back; `held` are places that it cannot give up now, of calls
    that run; `wanted` is what it expects to use soon; `unit` is a call: smaller slices are no use to anyone.
    """

    used: float
    held: float
    wanted: float
    unit: float

    @property
    def is_quiet(self) -> bool:
        return abs(self.used) < NOTHING and self.held + self.wanted < NOTHING


@dataclass(frozen=True, slots=True)
class Workers:
    """Who shares, by name: those `present`, and those `absent`, cut off perhaps: each of these goes on with what it has
    and an equal share of what is refilled, which is left to them."""

    present: Collection[str]
    absent: Collection[str] = ()

    @property
    def count(self) -> int:
        return max(1, len(self.present) + len(self.absent))


@dataclass(frozen=True, slots=True)
class Slice:
    """So much of the pool is one worker's, until then."""

    amount: float
    until_s: float


@dataclass(frozen=True, slots=True)
class Pool:
    """What is left, slices included, at `at_s` (Unix seconds of the database). `used_s`: when anything was last used;
    `short_s`: when a worker last got less than it wanted."""

    level: float
    at_s: float
    used_s: float
    short_s: float
    slices: Mapping[str, Slice]

    @classmethod
    def opened(
        cls, size: float, worker: str, workers: Workers, now_s: float, level: float | None = None
    ) -> Pool:
        """A new one, full unless its `level` is given. The others have an equal share each until they hear of it."""
        unclaimed = Slice(size / workers.count, now_s + SLICE_S)
        others = {*workers.present, *workers.absent} - {worker}
        return cls(
            size if level is None else level, now_s, now_s, 0.0, dict.fromkeys(sorted(others), unclaimed)
        )

    def free(self, now_s: float) -> float:
        """What no worker holds."""
        return self.level - sum(one.amount for one in self.slices.values() if one.until_s > now_s)

    def without(self, worker: str) -> Pool:
        """After `worker` has given its slice back."""
        return replace(self, slices={name: one for name, one in self.slices.items() if name != worker})

    def is_idle(self, size: float, now_s: float) -> bool:
        """Full and unused: everyone may go back to an equal share without saying so."""
        return self.used_s < now_s - IDLE_S and self.level > size - NOTHING

    def shared(
        self,
        size: float,
        per_s: float,
        worker: str,
        report: Report,
        workers: Workers,
        now_s: float,
        apart: float = 0.0,
    ) -> tuple[Pool, float]:
        """The pool after this report, and the worker's slice from now on.

        A worker gets what it wants as far as there is, and a fair part of the rest for what it does not foresee,
        unless others are short. `apart` is what a worker that is cut off may have at once, though its slice be smaller.
        """
        others = self._others(worker, workers, now_s, apart)
        theirs = sum(one.amount for name, one in others.items() if name in workers.absent)
        present = len(workers.present) / workers.count
        elapsed_s = min(max(now_s - self.at_s, 0.0), REFILLS_S)
        most = min(size, theirs + size * present)
        level = min(most, min(most, self.level + elapsed_s * per_s * present) - report.used)
        room = max(0.0, level - sum(one.amount for one in others.values()))
        wanted = report.held + report.wanted
        spare = 0.0 if self.short_s > now_s - SHORT_S else max(0.0, room - wanted) / workers.count
        amount = min(room, wanted + spare)
        amount = max(report.held, amount - amount % report.unit)
        slices = others | ({worker: Slice(amount, now_s + SLICE_S)} if amount > 0.0 else {})
        short_s = now_s if room < wanted else self.short_s
        return Pool(level, now_s, self.used_s if report.is_quiet else now_s, short_s, slices), amount

    def _others(self, worker: str, workers: Workers, now_s: float, apart: float) -> dict[str, Slice]:
        """Slices of those that may spend them."""
        known = dict.fromkeys(workers.present, 0.0) | dict.fromkeys(workers.absent, apart)
        others = {name: one for name, one in self.slices.items() if one.until_s > now_s}
        for name, least in known.items():
            amount = max(least, self.slices[name].amount if name in self.slices else 0.0)
            if amount > 0.0:
                others[name] = Slice(amount, now_s + SLICE_S)
        others.pop(worker, None)
        return others
