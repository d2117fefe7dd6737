"""Runs of the simulator: one scenario, one strategy, one seed.

In: a scenario, a strategy's name, a seed. Out: `Run`, with all records of it. Raises `NoLiteLLM` for LiteLLM's where
it is not installed. Every strategy of a seed meets the same calls and the same luck.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.bench.routing.calls import calls
from gateway.bench.routing.scenarios import Scenario
from gateway.bench.routing.strategies.base import Strategy
from gateway.bench.routing.strategies.litellm import LowestLatency, Routed, driven
from gateway.bench.routing.strategies.oracle import JUDGES, Judge, Oracle
from gateway.bench.routing.strategies.ours import Ours
from gateway.bench.routing.strategies.peak_ewma import PeakEwma
from gateway.bench.routing.strategies.prequal import Prequal
from gateway.bench.routing.strategies.simple import LeastInFlight, RandomPick, RoundRobin
from gateway.bench.routing.world import Record, Sent, World, chance_of

OURS, ORACLE = Ours.name, Oracle.name
LITELLM, LITELLM_ROUTER = LowestLatency.name, Routed.name
_SIMPLE: dict[str, Callable[[Scenario, int], Strategy]] = {
    RandomPick.name: lambda scenario, seed: RandomPick(chance_of(seed, RandomPick.name)),
    RoundRobin.name: lambda scenario, seed: RoundRobin(),
    LeastInFlight.name: lambda scenario, seed: LeastInFlight(chance_of(seed, LeastInFlight.name)),
    PeakEwma.name: lambda scenario, seed: PeakEwma(chance_of(seed, PeakEwma.name), scenario.failed_s),
    Prequal.name: lambda scenario, seed: Prequal(chance_of(seed, Prequal.name), scenario.failed_s),
    OURS: lambda scenario, seed: Ours(scenario, chance_of(seed, OURS)),
}
NAMES = (*_SIMPLE, LITELLM, LITELLM_ROUTER, ORACLE)


@dataclass(frozen=True, slots=True)
class Run:
    """All that happened: `records` by call, `sent` by try in the order of time."""

    scenario: Scenario
    strategy: str
    seed: int
    records: list[Record]
    sent: list[Sent]


def run(scenario: Scenario, strategy: str, seed: int) -> list[Run]:
    """One run; of the oracle one for each of its judges, of which the best counts."""
    if strategy == ORACLE:
        return [_run_oracle(scenario, seed, judge) for judge in JUDGES[scenario.objective]]
    if strategy == LITELLM:
        with driven(chance_of(seed, strategy)) as clock:
            return [_run(scenario, seed, strategy, lambda world: LowestLatency(clock))]
    if strategy == LITELLM_ROUTER:
        with driven(chance_of(seed, strategy)) as clock:
            routed = Routed(clock)
            try:
                return [_run(scenario, seed, strategy, lambda world: routed)]
            finally:
                routed.close()
    return [_run(scenario, seed, strategy, lambda world: _SIMPLE[strategy](scenario, seed))]


def _run_oracle(scenario: Scenario, seed: int, judge: Judge) -> Run:
    return _run(scenario, seed, ORACLE, lambda world: Oracle(scenario, world.sites, world.conditions, judge))


def _run(scenario: Scenario, seed: int, name: str, make: Callable[[World], Strategy]) -> Run:
    world = World(scenario, calls(scenario, seed), seed)
    world.run(make(world))
    return Run(scenario, name, seed, world.records, world.sent)
