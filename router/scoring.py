"""Scores: what each candidate is expected to do with a call, and their order by the policy's objective.

In: a query, its shape, what the policy says of the shape, who may serve the call and what is known of them. Out:
`Candidate`s, best first, those that would miss an SLO last. A candidate is kept and stands for the next call too,
while nothing it was weighed from has changed.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median

from router.catalog import Target
from router.decision import Candidate, Prediction
from router.fleet import Health, Weighed
from router.outlook import ENOUGH_SAMPLES, Outlook
from router.policy import Objective, ShapePolicy, Slo
from router.predict import predict, ttft_p95_s
from router.query import Query

NO_SLO = Slo()


def scored(
    query: Query,
    shape: str,
    rules: ShapePolicy,
    well: list[tuple[Target, Health]],
    outlooks: list[Outlook],
    output_tokens: int,
) -> list[Candidate]:
    """Candidates, best first: those within the SLO before the others, then by score."""
    is_hinted = not (query.slo_ttft_s is query.slo_tpot_s is query.deadline_s is None)
    found = []
    for (target, health), outlook in zip(well, outlooks, strict=True):
        kept = health.weighed.get(shape)
        if (
            kept is None
            or kept.outlook is not outlook
            or kept.in_flight != health.in_flight
            or kept.usual_in_flight != health.usual_in_flight
            or kept.output_tokens != output_tokens
            or (kept.input_tokens is not None and kept.input_tokens != query.input_tokens)
            or kept.rules is not rules
            or kept.target is not target
            or kept.engine is not health.engine
            or kept.stream is not query.stream
            or is_hinted
        ):
            found.append(
                _weigh(query, shape, rules, target, health, outlook, output_tokens, keep=not is_hinted)
            )
        else:
            found.append(kept.candidate)
    if rules.objective == "cost_per_completed_task":
        found = _with_typical_cost(found)
    found.sort(key=_rank)
    return found


def _weigh(
    query: Query,
    shape: str,
    rules: ShapePolicy,
    target: Target,
    health: Health,
    outlook: Outlook,
    output_tokens: int,
    *,
    keep: bool,
) -> Candidate:
    """One target's prediction and score, kept for the next call where nothing of the caller's own went into it."""
    prediction = predict(query, shape, target, health, outlook, output_tokens)
    misses = _slo_misses(_tightened(rules.slo, query), outlook, prediction, query)
    score = _score(rules.objective, prediction, query.stream)
    candidate = Candidate(target.name, "candidate", score, prediction, misses)
    if keep:
        health.weighed[shape] = Weighed(
            candidate,
            target,
            outlook,
            rules,
            health.engine,
            health.in_flight,
            health.usual_in_flight,
            output_tokens,
            query.input_tokens if outlook.cost_usd is None else None,
            query.stream,
        )
    return candidate


def _rank(candidate: Candidate) -> tuple[int, float]:
    return len(candidate.slo_misses), candidate.score or 0.0


def _score(objective: Objective, prediction: Prediction, stream: bool) -> float | None:
    """Lower is better; None while a cost is unknown. A call that does not stream has no first token to wait for: its
    end counts."""
    if objective == "ttft":
        base: float | None = prediction.ttft_s if stream else prediction.completion_s
    elif objective == "speed":
        base = prediction.tpot_s if stream else prediction.completion_s
    elif objective == "completion_p95":
        base = prediction.completion_p95_s
    else:
        base = prediction.cost_usd
    return None if base is None else base / prediction.success_share


def _with_typical_cost(found: list[Candidate]) -> list[Candidate]:
    """The median stands in for an unknown cost, so that it neither wins nor loses by being unknown."""
    known = [
        candidate.prediction.cost_usd
        for candidate in found
        if candidate.prediction is not None and candidate.prediction.cost_usd is not None
    ]
    typical_usd = median(known) if known else 0.0
    return [
        replace(candidate, score=typical_usd / candidate.prediction.success_share)
        if candidate.score is None and candidate.prediction is not None
        else candidate
        for candidate in found
    ]


def _tightened(slo: Slo, query: Query) -> Slo:
    """The caller's hints may lower a limit, never raise it."""
    if query.slo_ttft_s is None and query.deadline_s is None:
        return NO_SLO if slo == NO_SLO else slo
    return replace(
        slo,
        ttft_p95_s=_lower(slo.ttft_p95_s, query.slo_ttft_s),
        completion_p95_s=_lower(slo.completion_p95_s, query.deadline_s),
    )


def _lower(limit: float | None, hint: float | None) -> float | None:
    given = [value for value in (limit, hint) if value is not None]
    return min(given) if given else None


def _slo_misses(slo: Slo, outlook: Outlook, prediction: Prediction, query: Query) -> tuple[str, ...]:
    """The limits that the target would miss, in words; what too few samples speak for is not held against it."""
    if slo is NO_SLO and query.slo_tpot_s is None:
        return ()
    figures: list[tuple[str, float, float | None]] = []
    if outlook.completion_weight >= ENOUGH_SAMPLES:
        figures.append(("completion_p95_s", prediction.completion_p95_s, slo.completion_p95_s))
        figures.append(("tpot_s", prediction.tpot_s, query.slo_tpot_s))
    if query.stream and outlook.ttft_weight >= ENOUGH_SAMPLES:
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
