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
        total = self.weight + weight
        self.log_s += (log_s - self.log_s) * weight / total
        self.weight = total if total < LASTING else LASTING

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
        excess = self.excess + (spreads - SLACK) * weight
        if excess <= 0.0:
            if self.weight:
                self.clear()
            return False
        self.excess = excess
        self.level_sum += level * weight
        self.weight += weight
        return excess > self.alarm

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
    slope: float = PRIOR_SLOPE  # of the wait over the load: never negative, as calls do not hurry others
    changed_s: float = -math.inf  # when the present regime was found
    slower: Drift = field(default_factory=lambda: Drift(ALARM_SLOW))
    faster: Drift = field(default_factory=lambda: Drift(ALARM_FAST))
    _weight: float = 0.0  # of `now`
    _usual_weight: float = 0.0
    _num_loads: float = 0.0
    _load_variance: float = 0.0
    _load_covariance: float = 0.0  # with waits

    def level(self, shape: str) -> Level:
        level = self.levels.get(shape)
        if level is None:
            level = self.levels[shape] = Level()
        return level

    def idle(self, shape: str) -> float:
        """The wait at the mean load."""
        return self.usually(shape) + self.now

    def usually(self, shape: str) -> float:
        """By how much the shape's wait at the mean load is over `now`."""
        return self.level(shape).over(self.pooled.over(math.log(self.cold_s) - self.now))

    def learn(self, shape: str, wait_s: float, load: float | None, now: float, weight: float = 1.0) -> bool:
        """Takes in a wait, or `weight` like ones. Returns whether it found a new regime."""
        level = self.level(shape)
        wait = math.log(wait_s if wait_s > SHORTEST_S else SHORTEST_S)
        if load is not None:
            wait -= self.slope * (load - self.load)
        own = wait - self.now
        known, expected = level.weight, level.log_s
        level.add(own, weight)
        self.pooled.add(own, weight)
        if known < LEVEL_KNOWN:
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
        before, spread = self.now, self.spread
        spreads = error / spread
        is_slower = self.slower.add(spreads if spreads < MOST_SPREADS else MOST_SPREADS, level, weight)
        is_faster = self.faster.add(-spreads, level, weight)
        if is_slower or is_faster:
            found = self.slower if is_slower else self.faster
            after = found.level_sum / found.weight
            self._settle(now, weight=1.0)
        else:
            farthest, total = MOST_SPREADS * spread, self._weight + weight
            mild = error if error < farthest else farthest
            after = before + mild * weight / total
            self._weight = total if total < RECENT else RECENT
            off = mild if mild > -farthest else -farthest
            share = weight / SPREAD_SAMPLES if weight < SPREAD_SAMPLES else 1.0
            spread = math.sqrt(spread * spread * (1.0 - share) + off * off * share)
            self.spread = spread if spread > NARROWEST else NARROWEST
        low, high = (before, most) if before < most else (most, before)
        self.now = after = low if after < low else high if after > high else after
        step, total = after - self.usual, self._usual_weight + weight
        self.usual += (1.0 if step > 1.0 else -1.0 if step < -1.0 else step) * weight / total
        self._usual_weight = total if total < LASTING else LASTING
        return is_slower or is_faster

    def _learn_slope(self, load: float, error: float) -> None:
        off = load - self.load
        num_loads = self._num_loads + 1.0 if self._num_loads < LASTING else LASTING
        share, prior = 1.0 / num_loads, PRIOR_LOADS / num_loads
        mild = 1.0 if error > 1.0 else -1.0 if error < -1.0 else error
        covariance, variance = self._load_covariance, self._load_variance
        covariance += (off * (mild + self.slope * off) - covariance) * share
        variance += (off * off - variance) * share
        slope = (covariance + PRIOR_SLOPE * prior) / (variance + prior)
        self._num_loads, self._load_covariance, self._load_variance = num_loads, covariance, variance
        self.load += off * share
        self.slope = slope if slope > 0.0 else 0.0

    def _settle(self, now: float, weight: float) -> None:
        self._weight, self.changed_s = weight, now
        self.slower.clear()
        self.faster.clear()
