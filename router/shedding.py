"""Shedding: fallbacks that go before candidates which would miss an SLO under their load, and only then.

In: the best candidate and the fallbacks, scored. Out: the fallbacks to be tried first. A target that would miss the
SLO idle as well is left where the policy put it: its limit is the operator's to change.
"""

from __future__ import annotations

from dataclasses import replace

from router.catalog import Target
from router.decision import Candidate
from router.fleet import Health
from router.outlook import Outlook
from router.policy import ShapePolicy, Slo
from router.query import Query
from router.scoring import scored, slo_misses, tightened


def is_saturated(best: Candidate, outlook: Outlook, slo: Slo, stream: bool) -> bool:
    """Whether it would miss fewer limits without the calls it has now."""
    loaded = best.prediction
    if loaded is None or loaded.crowding <= 1.0:
        return False
    idle = replace(
        loaded,
        ttft_s=loaded.ttft_s / loaded.crowding,
        tpot_s=loaded.tpot_s / loaded.crowding,
        completion_s=loaded.completion_s / loaded.crowding,
        completion_p95_s=loaded.completion_p95_s / loaded.crowding,
        crowding=1.0,
    )
    return len(slo_misses(slo, outlook, idle, stream)) < len(best.slo_misses)


def relief(
    best: Candidate,
    outlook: Outlook,
    query: Query,
    shape: str,
    rules: ShapePolicy,
    fallbacks: list[tuple[Target, Health]],
    output_tokens: int,
    now: float,
) -> list[Candidate]:
    """The fallbacks that would meet the SLO, in the policy's order; none while the best candidate is not saturated."""
    if not is_saturated(best, outlook, tightened(rules.slo, query), query.stream):
        return []
    outlooks = [health.outlook(shape, now) for _, health in fallbacks]
    meeting = {
        it.target: it
        for it in scored(query, shape, rules, fallbacks, outlooks, output_tokens)
        if not it.slo_misses
    }
    return [
        replace(meeting[target.name], role="fallback") for target, _ in fallbacks if target.name in meeting
    ]
