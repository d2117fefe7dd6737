"""The calls of a run: when each arrives, and what it asks for. The same for every strategy.

In: a scenario and a seed. Out: `Call`s in the order of their arrival. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from gateway.bench.routing.scenarios import Arrivals, Incident, Kind, Scenario

LENGTH_SIGMA = 0.5  # of the logarithm of an answer's length


@dataclass(frozen=True, slots=True)
class Call:
    """`output_tokens` is what its answer will have: no strategy may look at it."""

    number: int
    arrived_s: float
    kind: Kind
    output_tokens: int


def calls(scenario: Scenario, seed: int) -> list[Call]:
    """An inhomogeneous Poisson process, thinned from one at the highest rate."""
    chance = Random(f"{scenario.name} calls {seed}")
    arrivals = scenario.arrivals
    bursts = _bursts(arrivals, scenario.duration_s, chance)
    highest = arrivals.rate_per_s * (1 + arrivals.swing) * arrivals.burst_times
    found: list[Call] = []
    now = chance.expovariate(highest)
    while now < scenario.duration_s:
        rate = arrivals.rate_per_s * (1 + arrivals.swing * math.sin(2 * math.pi * now / scenario.day_s))
        if any(begins <= now < ends for begins, ends in bursts):
            rate *= arrivals.burst_times
        if chance.random() < rate / highest:
            found.append(_call(len(found), now, scenario, chance))
        now += chance.expovariate(highest)
    return found


def of_others(scenario: Scenario, crowd: Incident, seed: int) -> list[Call]:
    """What others send to a target while it lasts; numbered from -1 downwards."""
    chance = Random(f"{scenario.name} others {crowd.target} {crowd.begins_s} {seed}")
    found: list[Call] = []
    now = crowd.begins_s + chance.expovariate(crowd.amount)
    while now < crowd.ends_s:
        found.append(_call(-1 - len(found), now, scenario, chance))
        now += chance.expovariate(crowd.amount)
    return found


def _call(number: int, now: float, scenario: Scenario, chance: Random) -> Call:
    kind = chance.choices(scenario.kinds, [kind.share for kind in scenario.kinds])[0]
    return Call(number, now, kind, output_tokens(kind, chance))


def output_tokens(kind: Kind, chance: Random) -> int:
    """The length of an answer, at least one token."""
    return max(1, round(kind.output_tokens * chance.lognormvariate(0.0, LENGTH_SIGMA)))


def _bursts(arrivals: Arrivals, duration_s: float, chance: Random) -> list[tuple[float, float]]:
    """Their begins and ends."""
    if arrivals.burst_times == 1.0:
        return []
    found, now = [], 0.0
    while (now := now + chance.expovariate(1 / arrivals.burst_every_s)) < duration_s:
        ends = now + chance.expovariate(1 / arrivals.burst_s)
        found.append((now, ends))
        now = ends
    return found
