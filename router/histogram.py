"""Latency histograms with logarithmic buckets: bucket k covers (γ^(k−1), γ^k] seconds, γ = 1.02.

A quantile read from a bucket's midpoint is right to (γ−1)/(γ+1) < 1 %, and histograms of workers, minutes and
targets merge by adding counts (Masson, Rim, Lee: DDSketch, VLDB 2019). `DecayedHistogram` forgets
exponentially by forward decay (Cormode et al., ICDE 2009). Pure: no clock; `now_s` is an argument.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

GAMMA = 1.02
SMALLEST_S = 1e-6  # shorter ones count as this, longer ones as LARGEST_S: keeps k within ±700
LARGEST_S = 1e6
_LN_GAMMA = math.log(GAMMA)
_UPPER = {k: GAMMA**k for k in range(-701, 701)}  # of every bucket there can be
_RESCALE_AT = 64.0  # half-lives since the landmark; 2^64 is far from overflow and the rescale stays rare
_FORGET_BELOW = 2.0**-60  # of a sample's weight: what is left of one after 60 half-lives


def bucket(seconds: float) -> int:
    """The k whose interval (γ^(k−1), γ^k] holds `seconds`."""
    value = SMALLEST_S if seconds < SMALLEST_S else LARGEST_S if seconds > LARGEST_S else seconds
    k = math.ceil(math.log(value) / _LN_GAMMA)
    if _UPPER[k] < value:  # the logarithm's rounding, at an edge
        return k + 1
    return k - 1 if _UPPER[k - 1] >= value else k


def upper(k: int) -> float:
    """Seconds; the largest value of bucket k."""
    return GAMMA**k


def midpoint(k: int) -> float:
    """Seconds; the value whose relative error to both ends of bucket k is the same, below 1 %."""
    return 2 * GAMMA**k / (GAMMA + 1)


def quantile(counts: Mapping[int, float], q: float) -> float | None:
    """Nearest-rank: the smallest value with at least q of the weight at or below it. None when empty."""
    total = math.fsum(counts.values())
    if total <= 0:
        return None
    rank = q * total
    seen, last = 0.0, 0
    for k in sorted(k for k, count in counts.items() if count > 0):
        seen, last = seen + counts[k], k
        if seen >= rank * (1 - 1e-12):  # the sum's rounding
            break
    return midpoint(last)


def count(values_s: Iterable[float]) -> Counter[int]:
    return Counter(bucket(value) for value in values_s)


def merge(histograms: Iterable[Mapping[int, float]]) -> dict[int, float]:
    """Equals the histogram of all the samples together."""
    merged: dict[int, float] = {}
    for histogram in histograms:
        for k, n in histogram.items():
            merged[k] = merged.get(k, 0) + n
    return merged


@dataclass(slots=True)
class DecayedHistogram:
    """A sparse histogram whose samples lose half their weight each `half_life_s`.

    A sample of time t is kept at 2^((t − landmark) / half_life): old ones need no touching, as all weights
    shrink by the same factor when read. Only ratios matter for quantiles and the mean, so these need no
    `now_s`.
    """

    half_life_s: float
    counts: dict[int, float] = field(default_factory=dict)  # bucket → weight at the landmark
    landmark_s: float | None = None
    _weight: float = 0.0
    _weighted_s: float = 0.0

    def add(self, value_s: float, now_s: float, weight: float = 1.0) -> None:
        if self.landmark_s is None:
            self.landmark_s = now_s
        half_lives = (now_s - self.landmark_s) / self.half_life_s
        if half_lives > _RESCALE_AT:
            self._rescale(now_s)
            half_lives = 0.0
        scaled = weight * math.exp2(half_lives if half_lives > -1000.0 else -1000.0)
        counts, k = self.counts, bucket(value_s)
        counts[k] = counts.get(k, 0.0) + scaled
        self._weight += scaled
        self._weighted_s += scaled * value_s

    def weight(self, now_s: float) -> float:
        """How many samples' worth is known at `now_s`: a sample just added counts 1."""
        return self._weight / self._growth(now_s) if self._weight else 0.0

    def mean(self) -> float | None:
        """Seconds; None when nothing is known."""
        return self._weighted_s / self._weight if self._weight else None

    def quantile(self, q: float) -> float | None:
        return quantile(self.counts, q)

    def clear(self) -> None:
        """Forget everything, e.g. when the regime has changed."""
        self.counts.clear()
        self.landmark_s, self._weight, self._weighted_s = None, 0.0, 0.0

    def _growth(self, now_s: float) -> float:
        assert self.landmark_s is not None
        half_lives = (now_s - self.landmark_s) / self.half_life_s
        return math.exp2(min(max(half_lives, -1000.0), 1000.0))

    def _rescale(self, now_s: float) -> None:
        factor = 1 / self._growth(now_s)
        self.counts = {k: n * factor for k, n in self.counts.items() if n * factor > _FORGET_BELOW}
        kept = math.fsum(self.counts.values())
        self._weighted_s *= factor
        if not self.counts:
            self._weighted_s = 0.0
        self._weight, self.landmark_s = kept, now_s
