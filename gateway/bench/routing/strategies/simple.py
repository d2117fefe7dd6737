"""Strategies that learn nothing: random, round robin, least in flight."""

from __future__ import annotations

from random import Random

from gateway.bench.routing.calls import Call
from gateway.bench.routing.strategies.base import Peer


class RandomPick(Peer):
    """Uniformly at random."""

    name = "random"

    def __init__(self, chance: Random) -> None:
        super().__init__()
        self._chance = chance

    def pick(self, call: Call, among: list[str], now: float) -> str:
        return self._chance.choice(among)


class RoundRobin(Peer):
    """Each in its turn."""

    name = "round robin"
    _turn = -1

    def pick(self, call: Call, among: list[str], now: float) -> str:
        self._turn += 1
        return among[self._turn % len(among)]


class LeastInFlight(Peer):
    """The fewest of our calls running there; of equals one at random."""

    name = "least in flight"

    def __init__(self, chance: Random) -> None:
        super().__init__()
        self._chance = chance

    def pick(self, call: Call, among: list[str], now: float) -> str:
        return min(among, key=lambda name: (self.in_flight[name], self._chance.random()))
