"""How long a target takes over a call: its draws of chance, and the state of the target while it works.

In: a scenario, the time, a `Place`, a call. Out: seconds. Draws depend on seed, call, target and try alone, never on
the order in which they are asked for: so all strategies meet the same luck. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from random import Random

from gateway.bench.routing.scenarios import Incident, Kind, Place, Scenario, Trouble

FAILS_AFTER_S = 1.0
REFUSED_AFTER_S = 0.05
PREFILL_TOKENS = 4000  # as many input tokens double the time to the first token
_TTFT_SIGMA, _TPOT_SIGMA = 0.35, 0.15
_TAIL_SHAPE, _LONGEST_TAIL = 1.5, 30.0  # of the Pareto tail, in medians


@dataclass(frozen=True, slots=True)
class Luck:
    """Factors on the target's medians, and two uniform draws in [0, 1)."""

    ttft: float
    tpot: float
    hangs: float
    fails: float


def luck(place: Place, chance: Random) -> Luck:
    ttft = chance.lognormvariate(0.0, _TTFT_SIGMA)
    is_tail, tail = chance.random() < place.tail_share, chance.paretovariate(_TAIL_SHAPE)
    if is_tail:
        ttft *= min(2 * tail, _LONGEST_TAIL)
    return Luck(ttft, chance.lognormvariate(0.0, _TPOT_SIGMA), chance.random(), chance.random())


def luck_of(seed: int, number: int, place: Place, repeat: int) -> Luck:
    """Of one try: the call's number, and how often it was at this target before."""
    return luck(place, Random(f"{seed} {number} {place.name} {repeat}"))


def first_token_work_s(place: Place, kind: Kind, chance: Luck) -> float:
    """Seconds to the first token at a target that does nothing else and is well."""
    return place.ttft_s * (1 + kind.input_tokens / PREFILL_TOKENS) * chance.ttft


def token_work_s(place: Place, kind: Kind, chance: Luck) -> float:
    """Seconds a token after the first one."""
    step_s = place.tpot_s * chance.tpot
    return step_s / dict(place.accepted_length)[kind.shape] if place.accepted_length else step_s


@dataclass(frozen=True)
class Conditions:
    """What is true of the targets of a scenario at a time."""

    scenario: Scenario

    def slowness(self, target: str, now: float) -> float:
        """How many times as long it takes at this moment."""
        return self._drift(target, now) * self._slow(target, now)

    def share(self, target: str, trouble: Trouble, now: float) -> float:
        """Of the calls, those that hang or fail."""
        return max((each.amount for each in self._of(target, trouble, now)), default=0.0)

    def elapsed_s(self, target: str, begins: float, work_s: float) -> float:
        """What `work_s` takes in a target whose speed changes as incidents begin and end. Drift stays as it was."""
        now, left_s = begins, work_s * self._drift(target, begins)
        while left_s > 0.0:
            slow = self._slow(target, now)
            change = min((at for at in self._changes[target] if at > now), default=math.inf)
            if now + left_s * slow <= change:
                return now + left_s * slow - begins
            left_s -= (change - now) / slow
            now = change
        return now - begins

    def _slow(self, target: str, now: float) -> float:
        return math.prod(each.amount for each in self._of(target, "slow", now))

    def _of(self, target: str, trouble: Trouble, now: float) -> list[Incident]:
        return [
            each
            for each in self.scenario.incidents
            if each.target == target and each.trouble == trouble and each.begins_s <= now < each.ends_s
        ]

    def _drift(self, target: str, now: float) -> float:
        scenario = self.scenario
        if not scenario.drift:
            return 1.0
        phase = self._order[target] / len(self._order)
        return 1 + scenario.drift * math.sin(2 * math.pi * (now / scenario.day_s + phase))

    @cached_property
    def _order(self) -> dict[str, int]:
        return {place.name: at for at, place in enumerate(self.scenario.places)}

    @cached_property
    def _changes(self) -> dict[str, list[float]]:
        return {
            name: [
                at
                for each in self.scenario.incidents
                if each.target == name and each.trouble == "slow"
                for at in (each.begins_s, each.ends_s)
            ]
            for name in self._order
        }
