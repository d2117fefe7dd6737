"""Peak-EWMA with the power of two choices, as finagle, linkerd and tower have it.

A latency above the average replaces it at once, one below moves it by its share of time; the load of a target is that
average × (calls running + 1). A failure counts as a wait of the whole deadline, else failing fast would be rewarded.
"""

from __future__ import annotations

import math
from random import Random

from gateway.bench.routing.calls import Call
from gateway.bench.routing.scenarios import Place
from gateway.bench.routing.strategies.base import Peer
from router.outcome import Outcome

_DECAY_S = 10.0  # linkerd's
_PENALTY_S = 1e6  # of a target that runs calls and has answered none


class PeakEwma(Peer):
    """The less loaded of two targets drawn at random."""

    name = "peak-ewma p2c"

    def __init__(self, chance: Random, failed_s: float) -> None:
        super().__init__()
        self._chance, self._failed_s = chance, failed_s
        self._cost_s: dict[str, float] = {}
        self._at: dict[str, float] = {}

    def join(self, place: Place, now: float) -> None:
        super().join(place, now)
        self._cost_s[place.name], self._at[place.name] = 0.0, now

    def pick(self, call: Call, among: list[str], now: float) -> str:
        pair = self._chance.sample(among, min(2, len(among)))
        return min(pair, key=lambda name: self.load(name, now))

    def load(self, name: str, now: float) -> float:
        self._take(name, 0.0, now)
        running, cost_s = self.in_flight[name], self._cost_s[name]
        if cost_s == 0.0 and running:
            return _PENALTY_S + running
        return cost_s * (running + 1)

    def observe(self, call: Call, outcome: Outcome, now: float) -> None:
        super().observe(call, outcome, now)
        if outcome.result == "ok" or outcome.is_failure:
            self._take(outcome.target, self._failed_s if outcome.is_failure else outcome.total_s, now)

    def _take(self, name: str, latency_s: float, now: float) -> None:
        kept = math.exp(-(now - self._at[name]) / _DECAY_S)
        cost_s = self._cost_s[name]
        self._cost_s[name] = latency_s if latency_s > cost_s else cost_s * kept + latency_s * (1 - kept)
        self._at[name] = now
