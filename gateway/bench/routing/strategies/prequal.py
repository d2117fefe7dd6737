"""Prequal (NSDI '24): requests in flight decide who is hot, latency who is chosen among the cold.

A target's latency is the median of those met at about its present number of calls in flight. One gateway sees all of
its own calls, so its counts stand for the probes. A failure counts as a wait of the whole deadline.
"""

from __future__ import annotations

from collections import deque
from random import Random
from statistics import median

from gateway.bench.routing.calls import Call
from gateway.bench.routing.scenarios import Place
from gateway.bench.routing.strategies.base import Peer
from router.outcome import Outcome

_HOT_QUANTILE = 2**-0.25  # the paper's
_KEPT, _NEAREST, _COUNTS = 64, 9, 128


class Prequal(Peer):
    """The lowest latency among the cold; the fewest calls in flight where all are hot."""

    name = "prequal"

    def __init__(self, chance: Random, failed_s: float) -> None:
        super().__init__()
        self._chance, self._failed_s = chance, failed_s
        self._seen: dict[str, deque[tuple[int, float]]] = {}
        self._counts: deque[int] = deque(maxlen=_COUNTS)
        self._met: dict[tuple[int, str], int] = {}

    def join(self, place: Place, now: float) -> None:
        super().join(place, now)
        self._seen[place.name] = deque(maxlen=_KEPT)

    def pick(self, call: Call, among: list[str], now: float) -> str:
        hot = self._hot_at()
        cold = [name for name in among if self.in_flight[name] <= hot]
        if cold:
            return min(cold, key=lambda name: (self._latency_s(name), self._chance.random()))
        return min(among, key=lambda name: (self.in_flight[name], self._chance.random()))

    def begin(self, call: Call, target: str, now: float) -> None:
        self._counts.extend(self.in_flight.values())
        self._met[call.number, target] = self.in_flight[target]
        super().begin(call, target, now)

    def observe(self, call: Call, outcome: Outcome, now: float) -> None:
        super().observe(call, outcome, now)
        met = self._met.pop((call.number, outcome.target))
        if outcome.result == "ok" or outcome.is_failure:
            latency_s = self._failed_s if outcome.is_failure else outcome.total_s
            self._seen[outcome.target].append((met, latency_s))

    def _hot_at(self) -> float:
        counts = sorted(self._counts)
        return counts[int(_HOT_QUANTILE * len(counts))] if counts else 0.0

    def _latency_s(self, name: str) -> float:
        """0 before the first answer: a probe of a new target finds it idle."""
        running, seen = self.in_flight[name], self._seen[name]
        nearest = sorted(seen, key=lambda each: abs(each[0] - running))[:_NEAREST]
        return median(latency_s for _, latency_s in nearest) if nearest else 0.0
