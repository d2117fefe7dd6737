"""How many drafted tokens of each sequence are worth verifying: the load-aware part of speculation.

After the hardware-aware prefix scheduler of DSpark's paper (algorithm 1): the drafts most likely to stand
are admitted one by one while they raise the expected tokens a second of the whole step. In: chances and
what a step costs. Out: a length for each sequence. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_LEAST_CHANCE = 0.02
LEAST_GAIN = 1.05  # of expected tokens a second, over none: less is within what the figures are worth


@dataclass(frozen=True, slots=True)
class Best:
    """The choice for one step."""

    lengths: list[int]  # one a sequence
    gain: float  # expected tokens a second, over those without drafts
    step_s: float


def best_lengths(
    survival: Sequence[Sequence[float]],
    step_s: Sequence[float],
    *,
    num_certain: int = 0,
    looks_ahead: bool = False,
) -> Best:
    """Lengths that promise the most tokens a second.

    `survival[r][k]`: chance that draft k of sequence r and all before it stand, falling in k.
    `step_s[n]`: seconds of the step with n drafted rows, up to all of them. `num_certain`: tokens of
    sequences that have no say in this. Without `looks_ahead` admission ends at the first draft that does
    not pay, so that no decision depends on the drafts after it: testing drawn proposals is exact only
    then. Certain proposals may look at all of them, which also finds gains beyond a step in the costs.
    """
    order = sorted(
        ((chance, -slot, row) for row, chances in enumerate(survival) for slot, chance in enumerate(chances)),
        reverse=True,
    )
    expected = float(len(survival) + num_certain)
    plain_rate = best_rate = expected / step_s[0]
    best_count = 0
    for count, (chance, _, _) in enumerate(order, start=1):
        expected += chance
        rate = expected / step_s[count]
        if rate > best_rate:
            best_rate, best_count = rate, count
        elif not looks_ahead:
            break
    if looks_ahead and best_rate < LEAST_GAIN * plain_rate:
        best_rate, best_count = plain_rate, 0
    lengths = [0] * len(survival)
    for _, _, row in order[:best_count]:
        lengths[row] += 1
    return Best(lengths, best_rate / plain_rate if plain_rate else 1.0, step_s[best_count])


def survivals(chances: Iterable[float]) -> list[float]:
    """Chances that each draft and all before it stand, from each one's given that those before it do."""
    result: list[float] = []
    product = 1.0
    for chance in chances:
        product *= chance
        result.append(product)
    return result


def likely(survival: Sequence[float]) -> list[float]:
    """Without the drafts at the end that are too unlikely to pay anywhere."""
    return [chance for chance in survival if chance > _LEAST_CHANCE]


def probability(odds: float) -> float:
    """Of log odds, without overflow."""
    return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, odds))))


def log_odds(chance: float) -> float:
    bounded = max(1e-6, min(1.0 - 1e-6, chance))
    return math.log(bounded / (1.0 - bounded))
