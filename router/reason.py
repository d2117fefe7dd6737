"""The reason of a decision: one sentence for people.

In: what the model name meant, the objective, the order of trying, whether some rest. Out: the sentence.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.catalog import Named
from router.decision import Candidate
from router.policy import Objective


def reason(named: Named, objective: Objective, order: Sequence[Candidate], some_rest: bool) -> str:
    """Why the first of them is the first."""
    if not order:
        return "no target can serve this call"
    first = order[0]
    second = order[1] if len(order) > 1 and order[1].role != "fallback" else None
    if first.role == "fallback":
        busy = next((it for it in order if it.role != "fallback"), None)
        if busy is None:
            return f"no candidate can serve this call; falling back to {first.target}"
        return f"under its load {busy.target} would miss the SLO ({busy.slo_misses[0]}); {first.target} relieves it"
    if named.pinned == (first.target,):
        return f"the model name pins {first.target}"
    if first.role == "weighted":
        return f"{first.target} is drawn by its weight"
    if second is None:
        others = (
            "the others cannot serve or are resting" if some_rest else "it is the only one that can serve"
        )
        return f"{first.target}: {others}"
    if first.role == "explore":
        return f"{first.target} is tried to keep its estimate fresh; {second.target} scores best"
    figures = f"{_figure(first)} against {_figure(second)} of {second.target}"
    if first.role == "sticky":
        return (
            f"{first.target} holds the start of this task, which outweighs its {objective} score, {figures}"
        )
    if second.slo_misses and not first.slo_misses:
        return f"{first.target} meets the SLO, {second.target} would miss it ({second.slo_misses[0]})"
    return f"{first.target} has the best {objective} score, {figures}"


def _figure(candidate: Candidate) -> str:
    return "none" if candidate.score is None else f"{candidate.score:.3g}"
