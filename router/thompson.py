"""Thompson sampling: the exploration of `cost_per_completed_task`, in the place of a fixed share of the calls.

In: candidates in the order of their expected costs, a uniform draw. Out: their order, and whether one is first to be
learnt of. Each target's probability of completion is drawn from its Beta, and whose cost ÷ drawn probability is least
goes first (Thompson, Biometrika 25, 1933): a target is tried as often as it may be the cheapest, so that a dear one
costs nothing to know. The others keep their order.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist
from zlib import crc32

from router.decision import Belief, Candidate
from router.outlook import PRIOR_SUCCESSES

DRAW_BITS, STEP_BITS = 32, 10
# Draws are taken in steps of a thousandth: their normal quantiles are looked up.
_QUANTILES = [NormalDist().inv_cdf((step + 0.5) / 2**STEP_BITS) for step in range(2**STEP_BITS)]


def sample(ranked: list[Candidate], draw: float) -> tuple[list[Candidate], bool]:
    """Only among those that miss as few limits as the best."""
    if len(ranked) < 2:
        return ranked, False
    best, bits = ranked[0], int(draw * 2.0**DRAW_BITS)
    num_misses = len(best.slo_misses)
    first, least = best, math.inf
    for candidate in ranked:
        belief = candidate.belief(read)
        if belief.cost >= least or len(candidate.slo_misses) > num_misses:
            continue
        if (cost := belief.cost / completion(belief, bits)) < least:
            first, least = candidate, cost
    if first is best:
        return ranked, False
    return [replace(first, role="explore"), *(it for it in ranked if it is not first)], True


def completion(belief: Belief, bits: int) -> float:
    """A probability of completion as one may believe in it, by the call's draw of so many bits."""
    own = bits * belief.salt >> DRAW_BITS - STEP_BITS & 2**STEP_BITS - 1
    return 1.0 / (1.0 + math.exp(belief.mean + belief.deviation * _QUANTILES[own]))


def read(candidate: Candidate) -> Belief:
    """The Beta(a, b) of its completions, taken for normal in the log odds: their mean ψ(b) − ψ(a) and variance
    ψ′(a) + ψ′(b) with ψ(x) ≈ ln x − 1/2x and ψ′(x) ≈ 1/x + 1/2x²."""
    salt, prediction = crc32(candidate.target.encode()) | 1, candidate.prediction
    if prediction is None:
        return Belief(candidate.score or 0.0, -math.inf, 0.0, salt)
    share = prediction.success_share
    a = prediction.weight + PRIOR_SUCCESSES
    b = a * (1.0 / share - 1.0)
    return Belief(
        cost=(candidate.score or 0.0) * share,
        mean=math.log(b / a) - 0.5 / b + 0.5 / a,
        deviation=math.sqrt((1.0 + 0.5 / a) / a + (1.0 + 0.5 / b) / b),
        salt=salt,
    )
