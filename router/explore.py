"""Exploration: now and then a call goes to a target of which little is known, so that estimates stay fresh.

In: candidates in the order of their scores, the policy's share, a uniform draw. Out: their order, and whether the
first was chosen to be learnt of.
"""

from __future__ import annotations

from dataclasses import replace

from router.decision import Candidate
from router.outlook import ENOUGH_SAMPLES

COLD_SHARE = 0.1  # of calls try a target of which less than ENOUGH_SAMPLES is known: soon warm, never flooded


def explore(scored: list[Candidate], share: float, draw: float) -> tuple[list[Candidate], bool]:
    """With a small probability the least known of the others goes first, so that estimates stay fresh."""
    if len(scored) < 2 or share <= 0.0 or draw >= max(share, COLD_SHARE):
        return scored, False
    least_known = min(scored[1:], key=_weight)
    is_cold = _weight(least_known) < ENOUGH_SAMPLES
    if draw >= (max(share, COLD_SHARE) if is_cold else share):
        return scored, False
    rest = [candidate for candidate in scored if candidate is not least_known]
    return [replace(least_known, role="explore"), *rest], True


def _weight(candidate: Candidate) -> float:
    return 0.0 if candidate.prediction is None else candidate.prediction.weight
