"""How much two groups of samples differ, and how sure that is.

Percentiles and means: the ratio b ÷ a with a 95 % percentile-bootstrap interval (Efron 1979). For means the samples are
drawn anew within their prompts, so that unequal prompts do not count as noise; for percentiles out of all, as one that
lies between two prompts' samples would else seem far more certain than it is. Shares: the difference b − a with
Newcombe's interval (Statistics in Medicine 1998, method 10). Pure: the chance is seeded by the samples' number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import Any

from gateway.bench.samples import nearest_rank

RESAMPLES = 1_000
LEAST_SAMPLES = 5  # of each side, for any interval
_Z = 1.959963984540054
Groups = Mapping[str, Sequence[Any]]  # samples by prompt
Statistic = Callable[[Sequence[Any]], float | None]


@dataclass(frozen=True, slots=True)
class Interval:
    """A ratio b ÷ a, or for shares a difference b − a; `low` and `high` None where too few samples speak."""

    value: float
    low: float | None = None
    high: float | None = None

    def excludes(self, point: float) -> bool:
        return self.low is not None and self.high is not None and not self.low <= point <= self.high


def pooled(groups: Groups) -> Groups:
    """All in one group: as percentiles want them."""
    return {"": _all(groups)}


def percentile(share: float) -> Statistic:
    return lambda values: nearest_rank(sorted(values), share)


def mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def ratio(a: Groups, b: Groups, statistic: Statistic) -> Interval | None:
    """None where there is no ratio at all."""
    value = _times(statistic(_all(a)), statistic(_all(b)))
    if value is None:
        return None
    if min(len(_all(a)), len(_all(b))) < LEAST_SAMPLES:
        return Interval(value)
    chance = Random(len(_all(a)) * 1_000_003 + len(_all(b)))
    drawn = (_times(statistic(_again(a, chance)), statistic(_again(b, chance))) for _ in range(RESAMPLES))
    times = sorted(each for each in drawn if each is not None)
    if len(times) < RESAMPLES // 2:
        return Interval(value)
    low, high = nearest_rank(times, 0.025), nearest_rank(times, 0.975)
    return Interval(value, low, high)


def share_difference(hits_a: int, n_a: int, hits_b: int, n_b: int) -> Interval | None:
    """b − a, of 1."""
    if not n_a or not n_b:
        return None
    a, b = hits_a / n_a, hits_b / n_b
    (low_a, high_a), (low_b, high_b) = wilson(hits_a, n_a), wilson(hits_b, n_b)
    low = b - a - math.hypot(b - low_b, high_a - a)
    high = b - a + math.hypot(high_b - b, a - low_a)
    return Interval(b - a, low, high)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    middle = (hits + _Z * _Z / 2) / (n + _Z * _Z)
    half = _Z / (n + _Z * _Z) * math.sqrt(hits * (n - hits) / n + _Z * _Z / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def _again(groups: Groups, chance: Random) -> list[Any]:
    return [value for values in groups.values() for value in chance.choices(values, k=len(values)) if values]


def _all(groups: Groups) -> list[Any]:
    return [value for values in groups.values() for value in values]


def _times(a: float | None, b: float | None) -> float | None:
    return b / a if a and b is not None else None
