"""Time-decayed estimates that forget at a half-life and fall back to a prior where evidence is thin.

`Decayed` is a number that halves every `half_life_s`. `Latency` is a waiting time learnt from finished and from
censored samples (a call given up after T seconds says "at least T"): the mean is the maximum-likelihood one for
exponential waits under right censoring, total time waited ÷ waits that ended, with a prior worth one sample.
Time is an argument; nothing here knows what is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from router.histogram import DecayedHistogram

PRIOR_WEIGHT = 1.0  # one real sample moves a cold estimate half way


@dataclass(slots=True)
class Decayed:
    """A sum whose parts halve every `half_life_s` seconds."""

    half_life_s: float
    value: float = 0.0
    at_s: float = 0.0

    def at(self, now: float) -> float:
        if self.value == 0.0:
            return 0.0
        return float(self.value * 0.5 ** (max(0.0, now - self.at_s) / self.half_life_s))

    def add(self, amount: float, now: float) -> None:
        self.value, self.at_s = self.at(now) + amount, max(now, self.at_s)


@dataclass(slots=True)
class Latency:
    """Waits in seconds: decayed time waited, decayed count of waits that ended, and their histogram."""

    half_life_s: float
    waited: Decayed = field(init=False)
    ended: Decayed = field(init=False)
    histogram: DecayedHistogram = field(init=False)

    def __post_init__(self) -> None:
        self.waited, self.ended = Decayed(self.half_life_s), Decayed(self.half_life_s)
        self.histogram = DecayedHistogram(self.half_life_s)

    def add(self, seconds: float, now: float) -> None:
        self.waited.add(seconds, now)
        self.ended.add(1.0, now)
        self.histogram.add(seconds, now)

    def add_censored(self, seconds: float, now: float) -> None:
        """The wait was given up: it would have taken at least this long."""
        self.waited.add(seconds, now)
        self.histogram.add(seconds, now)

    def weight(self, now: float) -> float:
        """Decayed number of waits that ended."""
        return self.ended.at(now)

    def mean_s(self, now: float, prior_s: float) -> float:
        return (self.waited.at(now) + PRIOR_WEIGHT * prior_s) / (self.ended.at(now) + PRIOR_WEIGHT)

    def quantile_s(self, q: float) -> float | None:
        return self.histogram.quantile(q)
