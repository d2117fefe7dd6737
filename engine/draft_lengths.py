"""How many drafted tokens of each sequence are worth verifying: the load-aware part of speculation.

After the hardware-aware scheduling of DSpark's paper. In: chances and what a step costs. Out: a length for
each sequence. Pure.

Why drawn drafts stay lossless. The chance of slot k depends on the drafts before k and on none from k on.
Survivals fall in k, ties go to the lower slot, so drafts admitted in falling order of survival are always
admitted after those before them of their own sequence: each admission is decided by drafts admitted already,
whosesoever they are, and a draft has no say in whether it is itself verified. It is the same as if each were
drawn and tested when its turn comes, where every test is exact. What may not depend on this step's drafts is
how many are admitted, unless that is found on the way, at the first that does not pay (algorithm 1,
`best_lengths`), or was fixed before they were drawn (`likeliest`).
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
    step_s: float
    plain_s: float  # the step without drafts


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
    not pay: only that is fit for drawn drafts of this very step. Looking at all of them also finds gains
    beyond a step in the costs.
    """
    order = _by_survival(survival)
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
        best_count = 0
    return Best(_lengths(survival, order[:best_count]), step_s[best_count], step_s[0])


def likeliest(survival: Sequence[Sequence[float]], budget: int) -> list[int]:
    """Lengths that verify the `budget` likeliest drafts; all of them where there are fewer."""
    return _lengths(survival, _by_survival(survival)[:budget])


_Candidate = tuple[float, int, int]  # survival, minus slot, row


def _by_survival(survival: Sequence[Sequence[float]]) -> list[_Candidate]:
    return sorted(
        ((chance, -slot, row) for row, chances in enumerate(survival) for slot, chance in enumerate(chances)),
        reverse=True,
    )


def _lengths(survival: Sequence[Sequence[float]], admitted: Iterable[_Candidate]) -> list[int]:
    lengths = [0] * len(survival)
    for _, _, row in admitted:
        lengths[row] += 1
    return lengths


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
