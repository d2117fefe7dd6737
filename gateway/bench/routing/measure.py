"""What is measured of a run: completions by shape, timeouts, cost, how soon bad targets are left and good ones found.

In: a `Run`. Out: `Figures` and single measures. Pure. A call that failed counts among completions as one that lasted
until its last deadline. Shares of traffic are of the calls' first tries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.bench.routing.scenarios import Incident, Scenario
from gateway.bench.routing.simulate import Run
from gateway.bench.routing.world import Record
from gateway.bench.samples import Percentiles

WINDOW_S = 10.0  # over which a share of traffic is taken
BEFORE_S = 30.0  # of traffic before an incident: what the target's share was
LEFT_SHARE = 0.1  # of the share before: all but a tenth is gone
BACK_SHARE = 0.8  # of the fair share: shares of so few calls are noisy
WARM_CALLS = 200  # after a target has joined
_STEP_S = 0.5


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run. `p95_s` is the geometric mean over the shapes of their p95, so that each counts alike.

    `window_…` are of the calls that arrived during an incident; None where there was none.
    """

    completion_s: dict[str, Percentiles]
    p95_s: float
    window_p95_s: float | None
    timeout_rate: float
    window_timeout_rate: float | None
    failure_rate: float
    cost_per_completed_usd: float | None
    explored_share: float
    shares: dict[str, float]


@dataclass(frozen=True, slots=True)
class Left:
    """How long a target that became slow kept its traffic, and how many calls it was given meanwhile."""

    after_s: float
    calls: int


def figures(run: Run) -> Figures:
    records, scenario = run.records, run.scenario
    first = [sent for sent in run.sent if sent.ordinal == 0]
    hit = [record for record in records if _is_hit(scenario, record)]
    completed = sum(record.is_ok for record in records)
    names = [place.name for place in scenario.places]
    return Figures(
        completion_s={
            shape: Percentiles.of(values) for shape, values in _completions_s(scenario, records).items()
        },
        p95_s=p95_s(scenario, records),
        window_p95_s=p95_s(scenario, hit) if hit else None,
        timeout_rate=_share([record.has_timed_out for record in records]),
        window_timeout_rate=_share([record.has_timed_out for record in hit]) if hit else None,
        failure_rate=_share([not record.is_ok for record in records]),
        cost_per_completed_usd=sum(record.cost_usd for record in records) / completed if completed else None,
        explored_share=_share([sent.is_explored for sent in first]),
        shares={name: _share([sent.target == name for sent in first]) for name in names},
    )


def score(run: Run) -> float:
    """What the scenario's objective comes to, lower is better: seconds, or dollars per completed call."""
    if run.scenario.objective != "cost_per_completed_task":
        return p95_s(run.scenario, run.records)
    return figures(run).cost_per_completed_usd or math.inf


def p95_s(scenario: Scenario, records: Sequence[Record]) -> float:
    """Geometric mean over the shapes that occur."""
    found = [Percentiles.of(values).p95 or 0.0 for values in _completions_s(scenario, records).values()]
    return math.exp(math.fsum(math.log(value) for value in found) / len(found))


def left(run: Run, incident: Incident) -> Left | None:
    """When all but a tenth of the target's traffic was gone; None: not while it lasted, or there was none before."""
    before = share(run, incident.target, incident.begins_s - BEFORE_S, incident.begins_s)
    if before == 0.0:
        return None
    given = [
        sent.at_s
        for sent in run.sent
        if sent.ordinal == 0
        and sent.target == incident.target
        and incident.begins_s <= sent.at_s < incident.ends_s
    ]
    for calls, at in enumerate((incident.begins_s, *given)):
        after = share(run, incident.target, at, at + WINDOW_S, is_after=calls > 0)
        if at + WINDOW_S <= incident.ends_s and after <= LEFT_SHARE * before:
            return Left(at - incident.begins_s, calls)
    return None


def back_s(run: Run, incident: Incident, fair: float) -> float | None:
    """Seconds after the incident's end until the target's share is near `fair`; None: not until the run's end."""
    steps = int((run.scenario.duration_s - incident.ends_s - WINDOW_S) / _STEP_S)
    for step in range(steps + 1):
        begins = incident.ends_s + step * _STEP_S
        if share(run, incident.target, begins, begins + WINDOW_S) >= BACK_SHARE * fair:
            return step * _STEP_S
    return None


def fair_share(run: Run, oracle: Run, incident: Incident) -> float | None:
    """Of the target once it is well again: what it had before; else what the oracle gives it after."""
    before = share(run, incident.target, incident.begins_s - BEFORE_S, incident.begins_s)
    return before or share(oracle, incident.target, incident.ends_s, run.scenario.duration_s) or None


def warm_share(run: Run, target: str, joins_s: float) -> float:
    """A newcomer's, of the first `WARM_CALLS` calls after it has joined."""
    first = [sent for sent in run.sent if sent.ordinal == 0 and sent.at_s >= joins_s][:WARM_CALLS]
    return _share([sent.target == target for sent in first])


def share(run: Run, target: str, begins: float, ends: float, *, is_after: bool = False) -> float:
    """Of the calls in [begins, ends), with `is_after` in (begins, ends)."""
    first = [
        sent.target == target
        for sent in run.sent
        if sent.ordinal == 0 and begins <= sent.at_s < ends and not (is_after and sent.at_s == begins)
    ]
    return _share(first)


def _completions_s(scenario: Scenario, records: Sequence[Record]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for record in records:
        completion_s = record.completion_s if record.is_ok else scenario.failed_s
        found.setdefault(record.call.kind.shape, []).append(completion_s)
    return dict(sorted(found.items()))


def _is_hit(scenario: Scenario, record: Record) -> bool:
    return any(each.begins_s <= record.call.arrived_s < each.ends_s for each in scenario.incidents)


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0
