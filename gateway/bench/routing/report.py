"""From runs to what is told: medians and spreads over the seeds, and whether what should hold does.

In: `Measured` runs. Out: `Row`s, one a scenario and strategy, and `Claim`s. Pure.
A ratio is taken within a seed, where both sides met the same calls and the same luck, and its median told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from gateway.bench.routing import measure
from gateway.bench.routing.compare import Measured
from gateway.bench.routing.measure import Figures
from gateway.bench.routing.scenarios import Scenario
from gateway.bench.routing.simulate import LITELLM, LITELLM_ROUTER, ORACLE, OURS

CALM_LIMIT, RUN_LIMIT, COST_LIMIT = 1.05, 1.15, 1.1  # times the oracle's
RIVAL_P95_LIMIT, RIVAL_TIMEOUT_LIMIT = 0.6, 0.25  # times LiteLLM's while something is wrong
LEFT_S, LEFT_CALLS, BACK_S, LEAST_WARM_SHARE = 5.0, 20, 30.0, 0.01


@dataclass(frozen=True, slots=True)
class Spread:
    """Over the seeds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """None without any value."""
        known = [value for value in values if value is not None]
        return cls(median(known), min(known), max(known)) if known else None


@dataclass(frozen=True, slots=True)
class Row:
    """A strategy in a scenario."""

    scenario: str
    strategy: str
    seeds: int
    completion_s: dict[str, dict[str, Spread | None]]  # by shape, by percentile
    p95_s: Spread | None
    window_p95_s: Spread | None
    timeout_rate: Spread | None
    window_timeout_rate: Spread | None
    failure_rate: Spread | None
    cost_per_completed_usd: Spread | None
    explored_share: Spread | None
    left_s: Spread | None
    left_calls: Spread | None
    back_s: Spread | None
    warm_share: Spread | None


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that should hold: a figure and its limit, the median over the seeds counting. None: not measured."""

    scenario: str
    what: str
    limit: float
    found: Spread | None
    holds: bool | None
    notes: tuple[str, ...] = field(default=())


def rows(found: Sequence[Measured]) -> list[Row]:
    """In the order in which they were measured."""
    groups: dict[tuple[str, str], list[Measured]] = {}
    for each in found:
        groups.setdefault((each.scenario, each.strategy), []).append(each)
    return [_row(group) for group in groups.values()]


def _row(group: Sequence[Measured]) -> Row:
    def over(read: Callable[[Figures], float | None]) -> Spread | None:
        return Spread.of(read(each.figures) for each in group)

    shapes = list(dict.fromkeys(shape for each in group for shape in each.figures.completion_s))
    return Row(
        scenario=group[0].scenario,
        strategy=group[0].strategy,
        seeds=len(group),
        completion_s={
            shape: {
                name: Spread.of(
                    getattr(each.figures.completion_s[shape], name)
                    for each in group
                    if shape in each.figures.completion_s
                )
                for name in ("p50", "p95", "p99")
            }
            for shape in shapes
        },
        p95_s=over(lambda its: its.p95_s),
        window_p95_s=over(lambda its: its.window_p95_s),
        timeout_rate=over(lambda its: its.timeout_rate),
        window_timeout_rate=over(lambda its: its.window_timeout_rate),
        failure_rate=over(lambda its: its.failure_rate),
        cost_per_completed_usd=over(lambda its: its.cost_per_completed_usd),
        explored_share=over(lambda its: its.explored_share),
        left_s=Spread.of(each.left_s for each in group),
        left_calls=Spread.of(each.left_calls for each in group),
        back_s=Spread.of(each.back_s for each in group),
        warm_share=Spread.of(each.warm_share for each in group),
    )


def claims(found: Sequence[Measured], scenarios: Iterable[Scenario]) -> list[Claim]:
    """What should hold of our routing, and of the oracle, in the scenarios that were run."""
    table: dict[str, dict[str, dict[int, Measured]]] = {}
    for each in found:
        table.setdefault(each.scenario, {}).setdefault(each.strategy, {})[each.seed] = each
    made: list[Claim] = []
    for scenario in scenarios:
        by_strategy = table.get(scenario.name, {})
        made += [*_of_oracle(scenario, by_strategy), *_of_ours(scenario, by_strategy)]
    return made


_Seeds = dict[int, Measured]


def _of_oracle(scenario: Scenario, by_strategy: dict[str, _Seeds]) -> list[Claim]:
    """On no seed does any strategy do better."""
    oracle = by_strategy.get(ORACLE, {})
    ratios, notes = [], []
    for strategy, seeds in by_strategy.items():
        for seed in seeds.keys() & oracle.keys() if strategy != ORACLE else ():
            ratio = seeds[seed].score / oracle[seed].score
            ratios.append(ratio)
            if ratio < 1.0:
                notes.append(f"{strategy}, seed {seed}: {ratio:.3f}")
    if not ratios:
        return []
    return [
        Claim(
            scenario.name, "least score / oracle's, any seed", 1.0, Spread.of(ratios), not notes, tuple(notes)
        )
    ]


def _of_ours(scenario: Scenario, by_strategy: dict[str, _Seeds]) -> list[Claim]:
    ours, oracle = by_strategy.get(OURS, {}), by_strategy.get(ORACLE, {})
    if not ours:
        return []
    what, limit = "p95 completion / oracle's", CALM_LIMIT if scenario.name == "calm" else RUN_LIMIT
    if scenario.objective == "cost_per_completed_task":
        what, limit = "cost per completed / oracle's", COST_LIMIT
    made = [_ratio(scenario, what, ours, oracle, lambda its: its.score, limit)]
    if scenario.incidents:
        for rival in (LITELLM, LITELLM_ROUTER):
            made += _beside(scenario, rival, ours, by_strategy.get(rival, {}), oracle)
        made += _of_incident(scenario, list(ours.values()))
    if any(place.joins_s > 0 for place in scenario.places):
        made += _of_newcomer(scenario, list(ours.values()))
    return [claim for claim in made if claim.found is not None or claim.notes]


def _beside(scenario: Scenario, rival: str, ours: _Seeds, theirs: _Seeds, oracle: _Seeds) -> list[Claim]:
    """While something is wrong. A note tells of what not even the oracle does."""

    def p95_s(one: Measured) -> float | None:
        return one.figures.window_p95_s

    def timeout_rate(one: Measured) -> float | None:
        return one.figures.window_timeout_rate

    timeouts, best = (
        _ratio(
            scenario, f"timeouts in incidents / {rival}'s", each, theirs, timeout_rate, RIVAL_TIMEOUT_LIMIT
        )
        for each in (ours, oracle)
    )
    if best.found is not None and best.found.median > RIVAL_TIMEOUT_LIMIT:
        timeouts = replace(timeouts, notes=(*timeouts.notes, f"the oracle's are {best.found.median:.2f}"))
    return [
        _ratio(scenario, f"p95 in incidents / {rival}'s", ours, theirs, p95_s, RIVAL_P95_LIMIT),
        timeouts,
    ]


def _ratio(
    scenario: Scenario,
    what: str,
    ours: _Seeds,
    theirs: _Seeds,
    read: Callable[[Measured], float | None],
    limit: float,
) -> Claim:
    """Within seeds. To a 0 of theirs there is no ratio: where ours was more, it counts as endless and is noted."""
    ratios, num_above_zero = [], 0
    for seed in ours.keys() & theirs.keys():
        above, below = read(ours[seed]), read(theirs[seed])
        if above is not None and below:
            ratios.append(above / below)
        elif above:
            num_above_zero += 1
    counted = [*ratios, *[math.inf] * num_above_zero]
    holds = median(counted) <= limit if counted else None
    notes = (f"theirs was 0 where ours was not in {num_above_zero} runs",) if num_above_zero else ()
    return Claim(scenario.name, what, limit, Spread.of(ratios), holds, notes)


def _of_incident(scenario: Scenario, ours: Sequence[Measured]) -> list[Claim]:
    first, made = scenario.incidents[0], []
    if first.trouble == "slow":
        never = sum(each.never_left for each in ours)
        in_time = [
            each.left_s is not None
            and each.left_calls is not None
            and (each.left_s <= LEFT_S or each.left_calls <= LEFT_CALLS)
            for each in ours
            if each.left_s is not None or each.never_left
        ]
        notes = (f"not left in {never} of {len(ours)} runs",) if never else ()
        made.append(
            Claim(
                scenario.name,
                f"{first.target}: calls until it is left (or {LEFT_S:g} s)",
                LEFT_CALLS,
                Spread.of(each.left_calls for each in ours),
                2 * sum(in_time) > len(in_time) if in_time else None,
                notes,
            )
        )
    never = sum(each.never_back for each in ours)
    known = [each.back_s for each in ours if each.back_s is not None or each.never_back]
    made.append(
        Claim(
            scenario.name,
            f"{first.target}: seconds until it is back",
            BACK_S,
            Spread.of(known),
            2 * sum(value is not None and value <= BACK_S for value in known) > len(known) if known else None,
            (f"not back in {never} of {len(ours)} runs",) if never else (),
        )
    )
    return made


def _of_newcomer(scenario: Scenario, ours: Sequence[Measured]) -> list[Claim]:
    pairs = [
        (each.warm_share, each.fair_warm_share)
        for each in ours
        if each.warm_share is not None and each.fair_warm_share is not None
    ]
    fair = Spread.of(fair for _, fair in pairs)
    if fair is None:
        return []
    fits = [LEAST_WARM_SHARE <= share <= fair for share, fair in pairs]
    what = f"newcomer's share of its first {measure.WARM_CALLS} calls, at least {LEAST_WARM_SHARE:g}"
    spread = Spread.of(share for share, _ in pairs)
    return [Claim(scenario.name, what, fair.median, spread, 2 * sum(fits) > len(fits))]
