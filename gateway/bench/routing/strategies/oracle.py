"""The oracle: it knows every target's true distributions as they are now, and sees the queues.

It knows no draws and no future: neither how long an answer will be nor whether this very call will meet the tail. What
it minimises is a figure of the call's own completion, `judge`d by its mean or by its tail, and of what the call costs
others; which of them makes the better run is known in hindsight only, so the oracle of a run is the best of the
`JUDGES` of its objective.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import inf
from random import Random

from gateway.bench.routing.calls import Call, output_tokens
from gateway.bench.routing.scenarios import Kind, Objective, Place, Scenario
from gateway.bench.routing.service import (
    FAILS_AFTER_S,
    Conditions,
    first_token_work_s,
    luck,
    token_work_s,
)
from gateway.bench.routing.strategies.base import Peer
from gateway.bench.routing.world import Site

_DRAWS = 4000
NAME = "oracle"


@dataclass(frozen=True, slots=True)
class Judge:
    """`tail`: the weight of the completion's p95 against its mean. `others`: of what a call costs those behind it, in
    seconds, or with `is_relative` as the score has it, in which shapes count alike and each by its own p95.

    `patience`: where money is the objective, the share of the deadline to the first token that a call may expect to
    wait for a cheaper target.
    """

    tail: float = 0.0
    others: float = 0.0
    is_relative: bool = False
    patience: float = 1.0


JUDGES: dict[Objective, tuple[Judge, ...]] = {
    "completion_p95": (
        *(Judge(tail, others) for tail in (0.0, 0.3) for others in (0.0, 1.0)),
        *(Judge(tail, 1.0, is_relative=True) for tail in (0.0, 0.3)),
    ),
    "cost_per_completed_task": tuple(Judge(patience=patience) for patience in (0.5, 1.0, inf)),
}


class Oracle(Peer):
    """The lowest cost, for the objective of the scenario."""

    name = NAME

    def __init__(
        self, scenario: Scenario, sites: Mapping[str, Site], conditions: Conditions, judge: Judge
    ) -> None:
        super().__init__()
        self._scenario, self._sites, self._truth, self._judge = scenario, sites, conditions, judge

    def pick(self, call: Call, among: list[str], now: float) -> str:
        among = [name for name in among if not self._sites[name].refuses] or among
        if self._scenario.objective == "cost_per_completed_task":
            return min(among, key=lambda name: self._usd(call, self._sites[name], now))
        return min(among, key=lambda name: self._wait_s(call, self._sites[name], now))

    def _usd(self, call: Call, site: Site, now: float) -> tuple[bool, float]:
        """The cheapest of those that will answer within the deadline."""
        place, kind = site.place, call.kind
        usd = kind.input_tokens * place.input_usd_per_mtok + mean_tokens(kind) * place.output_usd_per_mtok
        slow = self._truth.slowness(place.name, now) * site.crowd()
        waits_s = self._queue_s(site, now) + usual(place, kind).ttft_p95_s * slow
        is_late = waits_s > self._judge.patience * self._scenario.timeouts.first_token_s
        bad = self._truth.share(place.name, "hang", now) + self._truth.share(place.name, "fail", now)
        return is_late or bad >= 1.0, usd

    def _wait_s(self, call: Call, site: Site, now: float) -> float:
        place, judge = site.place, self._judge
        slow = self._truth.slowness(place.name, now)
        own = usual(place, call.kind)
        full = min(1.0, (len(site.inside) + 1) / place.slots)
        serves_s = (1 - judge.tail) * own.mean_s + judge.tail * own.p95_s
        serves_s *= slow * (1 + place.crowding * full)
        # Those who come after find one more inside for as long as this call takes.
        weight = judge.others * (self._others_weight(call.kind, site) if judge.is_relative else 1.0)
        behind_s = weight * slow * own.mean_s * place.crowding * full
        hangs = self._truth.share(place.name, "hang", now)
        fails = self._truth.share(place.name, "fail", now)
        lost_s = (1 + 9 * judge.tail) * (
            hangs * self._scenario.timeouts.first_token_s + fails * (FAILS_AFTER_S + own.mean_s)
        )
        queue_s = self._queue_s(site, now)
        return serves_s + behind_s + lost_s + queue_s * (1 + weight)

    def _others_weight(self, kind: Kind, site: Site) -> float:
        """What a second counts to those inside, and to those like them who will come, by what it counts to the call."""
        if not site.inside:
            return 1.0
        weights = [self._weight(each.exchange.call.kind) for each in site.inside]
        return sum(weights) / len(weights) / self._weight(kind)

    def _weight(self, kind: Kind) -> float:
        """Of a call's second in a score in which each shape counts alike, by its p95."""
        return 1.0 / (kind.share * min(usual(place, kind).p95_s for place in self._scenario.places))

    def _queue_s(self, site: Site, now: float) -> float:
        """Until a slot is free for one more, departures taken as memoryless."""
        if not site.is_full:
            return 0.0
        slow = self._truth.slowness(site.place.name, now) * (1 + site.place.crowding)
        return (len(site.waiting) + 1) * slow * self._mean_s(site.place) / site.place.slots

    def _mean_s(self, place: Place) -> float:
        return sum(kind.share * usual(place, kind).mean_s for kind in self._scenario.kinds)


@dataclass(frozen=True, slots=True)
class Usual:
    """Of calls of a kind at a target that does nothing else and is well."""

    mean_s: float
    p95_s: float
    ttft_p95_s: float


@cache
def usual(place: Place, kind: Kind) -> Usual:
    """From draws of the true distributions."""
    chance = Random(f"{place.name} {kind.shape}")
    found: list[tuple[float, float]] = []
    for _ in range(_DRAWS):
        drawn = luck(place, chance)
        first_s = first_token_work_s(place, kind, drawn)
        rest_s = (output_tokens(kind, chance) - 1) * token_work_s(place, kind, drawn)
        found.append((first_s + rest_s, first_s))
    completions_s, firsts_s = (sorted(column) for column in zip(*found, strict=True))
    at = int(0.95 * _DRAWS)
    return Usual(sum(completions_s) / _DRAWS, completions_s[at], firsts_s[at])


@cache
def mean_tokens(kind: Kind) -> float:
    chance = Random(f"{kind.shape} tokens")
    return sum(output_tokens(kind, chance) for _ in range(_DRAWS)) / _DRAWS
