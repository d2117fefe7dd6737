"""Small worlds and strategies whose course is known beforehand, for the simulator's tests."""

from __future__ import annotations

from gateway.bench.routing.calls import Call
from gateway.bench.routing.scenarios import Arrivals, Incident, Kind, Place, Scenario
from gateway.bench.routing.strategies.base import Choice, Peer, Route
from gateway.bench.routing.world import World
from router.fleet import EngineState
from router.outcome import Outcome
from router.policy import Timeouts

ONE = Kind("general", 1.0, 0, 1)  # its answer is its first token
WELL = Place("a", 1, 1.0, 0.0, crowding=0.0, tail_share=0.0)


def scenario(*places: Place, incidents: tuple[Incident, ...] = (), total_s: float = 1000.0) -> Scenario:
    timeouts = Timeouts(first_token_s=total_s / 10, idle_s=10.0, total_s=total_s)
    return Scenario("test", places, Arrivals(1.0), (ONE,), incidents, timeouts=timeouts)


def calls(*arrived_s: float, tokens: int = 1) -> list[Call]:
    return [Call(number, at, ONE, tokens) for number, at in enumerate(arrived_s)]


class Always(Peer):
    """The targets given, in this order, whatever is known; keeps what it hears."""

    name = "always"

    def __init__(self, *order: str, hedge_after_s: float | None = None) -> None:
        super().__init__()
        self._order, self._hedge_after_s = order, hedge_after_s
        self.heard: list[tuple[float, Outcome]] = []
        self.seen: list[tuple[float, EngineState]] = []

    def route(self, call: Call, now: float) -> Route:
        left = iter(self._order)
        for name in left:
            _, outcome = yield Choice(name, 0.0, False, self._hedge_after_s, lambda: next(left, None))
            if not outcome.is_retryable:
                return

    def observe(self, call: Call, outcome: Outcome, now: float) -> None:
        super().observe(call, outcome, now)
        self.heard.append((now, outcome))

    def look(self, target: str, state: EngineState, now: float) -> None:
        self.seen.append((now, state))


def run(world: Scenario, of: list[Call], strategy: Peer, seed: int = 1) -> World:
    found = World(world, of, seed)
    found.run(strategy)
    return found
