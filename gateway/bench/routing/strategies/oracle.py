"""The oracle: it knows every target's true distributions as they are now, and sees the queues.

It knows no draws and no future: neither how long an answer will be nor whether this very call will meet the tail. What
it minimises is a figure of the call's own completion, `judge`d by its mean or by its tail; which of them makes the
better run is known in hindsight only, so the oracle of a run is the best of the `JUDGES` of its objective.
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
    """`tail`: the weight of the completion's p95 against its mean. `others`: of what a call costs those behind it.

    `patience`: where money is the objective, the share of the deadline to the first token that a call may expect to
    wait for a cheaper target.
    """

    tail: float = 0.0
    others: float = 0.0
    patience: float = 1.0


JUDGES: dict[Objective, tuple[Judge, ...]] = {
    "completion_p95": tuple(Judge(tail, others) for tail in (0.0, 0.3, 1.0) for others in (0.0, 1.0)),
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
        behind_s = judge.others * slow * own.mean_s * place.crowding * full
        hangs = self._truth.share(place.name, "hang", now)
        fails = self._truth.share(place.name, "fail", now)
        weight = 1 + 9 * judge.tail
        lost_s = weight * (
            hangs * self._scenario.timeouts.first_token_s + fails * (FAILS_AFTER_S + own.mean_s)
        )
        queue_s = self._queue_s(site, now)
        return serves_s + behind_s + lost_s + queue_s * (1 + judge.others)

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
        rest_s = (output_tokens(kind, chance) - 1) * token_work_s(place, drawn)
        found.append((first_s + rest_s, first_s))
    completions_s, firsts_s = (sorted(column) for column in zip(*found, strict=True))
    at = int(0.95 * _DRAWS)
    return Usual(sum(completions_s) / _DRAWS, completions_s[at], firsts_s[at])


@cache
def mean_tokens(kind: Kind) -> float:
    chance = Random(f"{kind.shape} tokens")
    return sum(output_tokens(kind, chance) for _ in range(_DRAWS)) / _DRAWS
