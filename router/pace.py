"""`Pace`: how long one kind of wait lasts at one target, learnt so that a new regime is known after a few calls.

The logarithm of a wait is taken for a sum of three parts: a level of the task shape; a level of the target `now`, the
same for all shapes; and a slope times the load that the call met. So a few calls of any shape tell that a target has
become slow for all. Drift moves `now` with each sample; a new regime, found by a two-sided cumulative sum of how far
samples lie from what was expected (Page, Biometrika 1954), moves it at once. A slow sample counts no more than
`MOST_SPREADS`, for single slow ones happen in any regime; a fast one speaks for itself.
In: seconds, shapes, loads, the time. Out: logarithms of seconds. All times k, all estimates times k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

RECENT = 8.0  # samples that `now` is the mean of
LASTING = 200.0  # samples that levels, `usual` and the slope are means of
SPREAD_SAMPLES = 50.0
NARROWEST = 0.1
SLACK, ALARM_SLOW, ALARM_FAST, MOST_SPREADS = 1.0, 5.0, 3.0, 3.0  # in spreads
LEVEL_KNOWN = 2.0  # samples of a shape before it says anything of the target
PRIOR_SLOPE, PRIOR_LOADS = 0.1, 30.0  # the prior is worth as many calls at a load one off the mean
STEEPEST = 7.0  # e^7 = 1,000 times as long: so much a load may add
SHORTEST_S = 1e-9


@dataclass(slots=True)
class Level:
    """A mean of logarithms of seconds, and how many samples are behind it."""

    log_s: float = 0.0
    weight: float = 0.0

    def add(self, log_s: float, weight: float) -> None:
        self.log_s += (log_s - self.log_s) * weight / (self.weight + weight)
        self.weight = min(self.weight + weight, LASTING)

    def over(self, prior: float) -> float:
        """With a prior that is worth one sample."""
        return (self.log_s * self.weight + prior) / (self.weight + 1.0)


@dataclass(slots=True)
class Drift:
    """A one-sided cumulative sum, in spreads, and what the samples in it say the level is."""

    alarm: float
    excess: float = 0.0
    level_sum: float = 0.0
    weight: float = 0.0

    def add(self, spreads: float, level: float, weight: float) -> bool:
        """Whether it is over the alarm."""
        self.excess += (spreads - SLACK) * weight
        self.level_sum, self.weight = self.level_sum + level * weight, self.weight + weight
        if self.excess <= 0.0:
            self.clear()
        return self.excess > self.alarm

    def clear(self) -> None:
        self.excess = self.level_sum = self.weight = 0.0


@dataclass(slots=True)
class Pace:
    """Of one target. `cold_s` is the wait assumed before there is any sample."""

    cold_s: float
    spread: float = 0.5  # of samples about what was expected
    levels: dict[str, Level] = field(default_factory=dict)  # by shape
    pooled: Level = field(default_factory=Level)
    now: float = 0.0
    usual: float = 0.0  # what `now` is in the long run
    load: float = 0.0  # mean
    changed_s: float = -math.inf  # when the present regime was found
    slower: Drift = field(default_factory=lambda: Drift(ALARM_SLOW))
    faster: Drift = field(default_factory=lambda: Drift(ALARM_FAST))
    _weight: float = 0.0  # of `now`
    _usual_weight: float = 0.0
    _num_loads: float = 0.0
    _load_variance: float = 0.0
    _load_covariance: float = 0.0  # with waits

    def level(self, shape: str) -> Level:
        if shape not in self.levels:
            self.levels[shape] = Level()
        return self.levels[shape]

    def idle(self, shape: str) -> float:
        """The wait at the mean load."""
        return self.level(shape).over(self.pooled.over(math.log(self.cold_s) - self.now)) + self.now

    def slope(self) -> float:
        """Of the wait over the load: never negative, as calls do not hurry others."""
        prior = PRIOR_LOADS / max(self._num_loads, 1.0)
        return max(0.0, (self._load_covariance + PRIOR_SLOPE * prior) / (self._load_variance + prior))

    def learn(self, shape: str, wait_s: float, load: float | None, now: float, weight: float = 1.0) -> bool:
        """Takes in a wait, or `weight` like ones. Returns whether it found a new regime."""
        level = self.level(shape)
        wait = math.log(max(wait_s, SHORTEST_S))
        if load is not None:
            wait -= self.slope() * (load - self.load)
        own = wait - self.now
        was_known, expected = level.weight >= LEVEL_KNOWN, level.log_s
        level.add(own, weight)
        self.pooled.add(own, weight)
        if not was_known:
            return False
        if load is not None:
            self._learn_slope(load, own - expected)
        return self._learn_now(wait - expected, own - expected, wait - level.log_s, now, weight)

    def follow(self, other: Pace) -> None:
        """A new regime, of which only the other pace has samples: as far from the usual, until the next sample."""
        self.now = self.usual + other.now - other.usual
        self._settle(other.changed_s, weight=0.5)

    def _learn_now(self, level: float, error: float, most: float, now: float, weight: float) -> bool:
        """`level` is where the sample says the target is, `error` how far that is from `now`; no further than `most`,
        where it would be expected as it came."""
        before, spreads = self.now, error / self.spread
        is_slower = self.slower.add(min(spreads, MOST_SPREADS), level, weight)
        is_faster = self.faster.add(-spreads, level, weight)
        if is_slower or is_faster:
            found = self.slower if is_slower else self.faster
            after = found.level_sum / found.weight
            self._settle(now, weight=1.0)
        else:
            mild = min(error, MOST_SPREADS * self.spread)
            after = before + mild * weight / (self._weight + weight)
            self._weight = min(self._weight + weight, RECENT)
            narrow = min(abs(mild), MOST_SPREADS * self.spread) ** 2
            share = min(1.0, weight / SPREAD_SAMPLES)
            self.spread = max(NARROWEST, math.sqrt(self.spread**2 * (1.0 - share) + narrow * share))
        self.now = min(max(after, min(before, most)), max(before, most))
        step = min(1.0, max(-1.0, self.now - self.usual))
        self.usual += step * weight / (self._usual_weight + weight)
        self._usual_weight = min(self._usual_weight + weight, LASTING)
        return is_slower or is_faster

    def _learn_slope(self, load: float, error: float) -> None:
        slope, off = self.slope(), load - self.load
        self._num_loads = min(self._num_loads + 1.0, LASTING)
        share = 1.0 / self._num_loads
        self.load += off * share
        self._load_variance += (off * off - self._load_variance) * share
        seen = off * (min(1.0, max(-1.0, error)) + slope * off)
        self._load_covariance += (seen - self._load_covariance) * share

    def _settle(self, now: float, weight: float) -> None:
        self._weight, self.changed_s = weight, now
        self.slower.clear()
        self.faster.clear()
