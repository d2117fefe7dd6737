"""Exploration: now and then a call goes to a target that may well be better than it seems, so that this is noticed.

In: candidates in the order of their scores, the policy's share, a uniform draw. Out: their order, and whether the
first was chosen to be learnt of. What a target may be is its score times its `hope`: a slow one may be well again, one
not heard of for long may have become better, one never known may be anything. Who is worse even so is left alone.
"""

from __future__ import annotations

import math
from dataclasses import replace

from router.decision import Candidate

COLD_SHARE = 0.1  # of calls try a target that is not known yet: soon warm, never flooded


def explore(scored: list[Candidate], share: float, draw: float) -> tuple[list[Candidate], bool]:
    """With a small probability the one that may be best goes first, if it may be better than the best is."""
    if len(scored) < 2 or share <= 0.0 or draw >= max(share, COLD_SHARE):
        return scored, False
    hoped = min(scored[1:], key=_hoped)
    least = _hoped(hoped)
    if draw >= (share if least > 0.0 else max(share, COLD_SHARE)) or least >= (scored[0].score or math.inf):
        return scored, False
    rest = [candidate for candidate in scored if candidate is not hoped]
    return [replace(hoped, role="explore"), *rest], True


def _hoped(candidate: Candidate) -> float:
    prediction = candidate.prediction
    if prediction is None or candidate.score is None:
        return 0.0
    return candidate.score * prediction.success_share * prediction.hope
