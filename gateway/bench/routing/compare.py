"""One scenario and one seed under several strategies: run, then measured beside the oracle.

In: a scenario, strategies' names, a seed. Out: `Compared`. Pure but for what LiteLLM does on import.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.bench.routing import measure
from gateway.bench.routing.measure import Figures
from gateway.bench.routing.scenarios import Scenario
from gateway.bench.routing.simulate import ORACLE, Run, run
from gateway.bench.routing.strategies.litellm import NoLiteLLM


@dataclass(frozen=True, slots=True)
class Measured:
    """One run, measured. `left_s`, `left_calls`, `back_s` are of the scenario's first incident and None without it;
    `never_left` and `never_back` say that it never happened."""

    scenario: str
    strategy: str
    seed: int
    score: float
    figures: Figures
    left_s: float | None
    left_calls: int | None
    never_left: bool
    back_s: float | None
    never_back: bool
    warm_share: float | None
    fair_warm_share: float | None


@dataclass(frozen=True, slots=True)
class Compared:
    """The runs there are, and why others are not."""

    runs: list[Measured] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare(scenario: Scenario, strategies: Sequence[str], seed: int) -> Compared:
    """The oracle is run first, and always: shares of traffic are fair by its word."""
    oracle = best(run(scenario, ORACLE, seed))
    found = Compared([measured(oracle, oracle)])
    for strategy in strategies:
        if strategy == ORACLE:
            continue
        try:
            found.runs.append(measured(best(run(scenario, strategy, seed)), oracle))
        except NoLiteLLM as error:
            found.notes.append(f"{strategy} was left out: {error}")
    return found


def best(runs: Sequence[Run]) -> Run:
    """Of the oracle's judges the one that did best in hindsight; of others their only one."""
    return min(runs, key=measure.score)


def measured(one: Run, oracle: Run) -> Measured:
    """`oracle`: the run of the same scenario and seed that shares are compared with."""
    incident = next(iter(one.scenario.incidents), None)
    newcomer = next((place for place in one.scenario.places if place.joins_s > 0), None)
    left = back = fair = warm = fair_warm = None
    had_traffic = False
    if incident is not None:
        left = measure.left(one, incident)
        begins = incident.begins_s
        had_traffic = measure.share(one, incident.target, begins - measure.BEFORE_S, begins) > 0
        fair = measure.fair_share(one, oracle, incident)
        back = None if fair is None else measure.back_s(one, incident, fair)
    if newcomer is not None:
        warm = measure.warm_share(one, newcomer.name, newcomer.joins_s)
        fair_warm = measure.share(oracle, newcomer.name, newcomer.joins_s, one.scenario.duration_s)
    return Measured(
        scenario=one.scenario.name,
        strategy=one.strategy,
        seed=one.seed,
        score=measure.score(one),
        figures=measure.figures(one),
        left_s=left.after_s if left else None,
        left_calls=left.calls if left else None,
        never_left=had_traffic and left is None,
        back_s=back,
        never_back=fair is not None and back is None,
        warm_share=warm,
        fair_warm_share=fair_warm,
    )
