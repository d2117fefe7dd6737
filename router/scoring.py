"""Scores: what each candidate is expected to do with a call, and their order by the policy's objective.

In: a query, its shape, what the policy says of the shape, who may serve the call and what is known of them. Out:
`Candidate`s, best first, those that would miss an SLO last. A candidate is kept and stands for the next call too,
while nothing it was weighed from has changed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import median

from router.catalog import Target
from router.decision import Candidate, Prediction
from router.fleet import Health, Weighed
from router.lengths import Length
from router.outlook import ENOUGH_SAMPLES, RATE_EVIDENCE, Outlook
from router.policy import Objective, ShapePolicy, Slo
from router.predict import predict, ttft_p95_s
from router.query import Query

CUT_SHORT = frozenset({"speed", "cost_per_completed_task"})  # objectives to which an answer cut short is none
LARGEST_TRUNCATION = 0.9  # however many answers are cut, one in ten is hoped for
# Share of timeouts where the policy has no limit; where money is the objective, timeouts are weighed by what they cost.
DEFAULT_BUDGETS: dict[Objective, float | None] = {
    "ttft": 0.005,
    "speed": 0.005,
    "completion_p95": 0.005,
    "cost_per_completed_task": None,
}
DOUBLING_BURN = 5.0  # so many times the budget, and once more, add a whole score


def scored(
    query: Query,
    shape: str,
    rules: ShapePolicy,
    well: list[tuple[Target, Health]],
    outlooks: list[Outlook],
    output_tokens: int,
    length: Length | None = None,
) -> list[Candidate]:
    """Candidates, best first: those within the SLO before the others, then by score. `length`: of such answers."""
    found = []
    longest = 0.0 if length is None or rules.objective not in CUT_SHORT else length.longest
    for (target, health), outlook in zip(well, outlooks, strict=True):
        is_tight, kept = longest > 0.0 and room_of(target, query) < longest, health.weighed.get(shape)
        if (
            is_tight
            or kept is None
            or kept.outlook is not outlook
            or kept.in_flight != health.in_flight
            or kept.output_tokens != output_tokens
            or (kept.input_tokens is not None and kept.input_tokens != query.input_tokens)
            or kept.rules is not rules
            or kept.target is not target
            or kept.engine is not health.engine
            or kept.stream is not query.stream
        ):
            cut = length.share_over(room_of(target, query)) if length is not None and is_tight else 0.0
            found.append(_weigh(query, shape, rules, target, health, outlook, output_tokens, cut))
        else:
            found.append(kept.candidate)
    if not (query.slo_ttft_s is query.slo_tpot_s is query.deadline_s is None):
        slo = tightened(rules.slo, query)
        found = [_under(slo, it, outlook, query) for it, outlook in zip(found, outlooks, strict=True)]
    if rules.objective == "cost_per_completed_task":
        found = _with_typical_cost(found)
    found.sort(key=_rank)
    return found


def room_of(target: Target, query: Query) -> float:
    """Tokens that an answer may have."""
    return math.inf if target.context_tokens is None else target.context_tokens - query.input_tokens


def _weigh(
    query: Query,
    shape: str,
    rules: ShapePolicy,
    target: Target,
    health: Health,
    outlook: Outlook,
    output_tokens: int,
    cut_share: float,
) -> Candidate:
    """One target's prediction, score and misses of the policy's SLO, kept for the next call.

    `cut_share`: of answers, those that do not fit in; for the next call they may.
    """
    prediction = predict(query, shape, target, health, outlook, output_tokens)
    score = _score(rules, prediction, outlook, query.stream, cut_share)
    misses = slo_misses(rules.slo, outlook, prediction, query.stream)
    candidate = Candidate(target.name, "candidate", score, prediction, misses)
    if not cut_share:
        health.weighed[shape] = Weighed(
            candidate,
            target,
            outlook,
            rules,
            health.engine,
            health.in_flight,
            output_tokens,
            query.input_tokens if outlook.cost_usd is None or health.engine is not None else None,
            query.stream,
        )
    return candidate


def _under(slo: Slo, candidate: Candidate, outlook: Outlook, query: Query) -> Candidate:
    """The candidate as this SLO sees it."""
    assert candidate.prediction is not None
    misses = slo_misses(slo, outlook, candidate.prediction, query.stream)
    return candidate if misses == candidate.slo_misses else replace(candidate, slo_misses=misses)


def _rank(candidate: Candidate) -> tuple[int, float]:
    return len(candidate.slo_misses), candidate.score or 0.0


def _score(
    rules: ShapePolicy, prediction: Prediction, outlook: Outlook, stream: bool, cut_share: float
) -> float | None:
    """Objective ÷ share of calls that come to a good end × pressure of the error budget; lower is better.

    A call that fails is made again and so are its cost and its wait: a geometric number of tries, 1 ÷ share in the
    mean. Trying in the order of cost ÷ probability costs least until the first success (Simon and Kadane, Artificial
    Intelligence 6, 1975). None while a cost is unknown.
    """
    base = objective_value(rules.objective, prediction, stream)
    if base is None:
        return None
    share = prediction.success_share
    if rules.objective != "cost_per_completed_task":
        base *= prediction.burden
    if rules.objective in CUT_SHORT:
        share *= 1.0 - min(max(outlook.truncation_rate or 0.0, cut_share), LARGEST_TRUNCATION)
    if rules.objective == "cost_per_completed_task":
        share *= outlook.task_share
    if outlook.recent_timeouts and (budget := rules.slo.timeout_rate or DEFAULT_BUDGETS[rules.objective]):
        base *= pressure(outlook, budget)
    return base / share


def objective_value(objective: Objective, prediction: Prediction, stream: bool) -> float | None:
    """Seconds, seconds a token or dollars of one try. A call that does not stream has no first token to wait for: its
    end counts. `speed` is the pace once tokens flow, since long answers are what it is for."""
    if objective == "ttft":
        return prediction.ttft_s if stream else prediction.completion_s
    if objective == "speed":
        return prediction.tpot_s if stream else prediction.completion_s
    if objective == "completion_p95":
        return prediction.completion_p95_s * prediction.p95_trust
    return prediction.cost_usd


def pressure(outlook: Outlook, budget: float) -> float:
    """How much a target counts as worse for spending its error budget of timeouts too fast: 1 + (burn − 1) ÷ 5.

    Burn is the rate of timeouts ÷ the budget (SRE workbook, chapter 5). The workbook asks a short and a long window so
    that a lone error is no alarm; here the short one is the last calls of all shapes, since who hangs does so whatever
    is asked, and in the long one's place stand RATE_EVIDENCE calls that kept to the budget.
    """
    calls = outlook.recent_calls + RATE_EVIDENCE
    burn = (outlook.recent_timeouts + RATE_EVIDENCE * budget) / calls / budget
    return 1.0 + max(0.0, burn - 1.0) / DOUBLING_BURN


def _with_typical_cost(found: list[Candidate]) -> list[Candidate]:
    """The median stands in for an unknown cost, so that it neither wins nor loses by being unknown."""
    if None not in [candidate.score for candidate in found]:
        return found
    known = [it.prediction.cost_usd for it in found if it.prediction and it.prediction.cost_usd is not None]
    typical_usd = median(known) if known else 0.0
    return [
        replace(it, score=typical_usd / it.prediction.success_share)
        if it.score is None and it.prediction is not None
        else it
        for it in found
    ]


def tightened(slo: Slo, query: Query) -> Slo:
    """The caller's hints may lower a limit, never raise it."""
    return replace(
        slo,
        ttft_p95_s=_lower(slo.ttft_p95_s, query.slo_ttft_s),
        tpot_s=_lower(slo.tpot_s, query.slo_tpot_s),
        completion_p95_s=_lower(slo.completion_p95_s, query.deadline_s),
    )


def _lower(limit: float | None, hint: float | None) -> float | None:
    given = [value for value in (limit, hint) if value is not None]
    return min(given) if given else None


def slo_misses(slo: Slo, outlook: Outlook, prediction: Prediction, stream: bool) -> tuple[str, ...]:
    """The limits that the target would miss, in words; what too few samples speak for is not held against it."""
    if slo.is_none:
        return ()
    figures: list[tuple[str, float, float | None]] = []
    if outlook.completion_weight >= ENOUGH_SAMPLES:
        figures.append(("completion_p95_s", prediction.completion_p95_s, slo.completion_p95_s))
        figures.append(("tpot_s", prediction.tpot_s, slo.tpot_s))
    if stream and outlook.ttft_weight >= ENOUGH_SAMPLES:
        figures.append(("ttft_p95_s", ttft_p95_s(outlook, prediction), slo.ttft_p95_s))
    if outlook.timeout_rate is not None and outlook.truncation_rate is not None:
        figures.append(("timeout_rate", outlook.timeout_rate, slo.timeout_rate))
        figures.append(("truncation_rate", outlook.truncation_rate, slo.truncation_rate))
    return tuple(
        [
            f"{what} {value:.3g} > {limit:g}"
            for what, value, limit in figures
            if limit is not None and value > limit
        ]
    )
