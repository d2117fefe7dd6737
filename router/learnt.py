"""`Learnt`: what outcomes teach about one target, for one task shape or all of them; old ones count ever less.

Every sum is kept by forward decay (Cormode et al., ICDE 2009): a sample of time t enters with weight
2^((t − landmark) / half-life), so nothing old is touched, and reading divides by the weight of now. Waits are learnt
from finished and from censored samples (a call given up after T seconds says "at least T"): the mean is the
maximum-likelihood one for exponential waits under right censoring, total time waited ÷ waits that ended.
Time is an argument.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from router.histogram import DecayedHistogram
from router.outcome import TIMEOUTS, Outcome

_RESCALE_AT = 64.0  # half-lives since the landmark; 2^64 is far from overflow and the rescale stays rare


@dataclass(slots=True)
class Sums:
    """Weighted sums at the landmark. `…_s` are seconds waited, `…_ended` the waits that came to their end."""

    ttft_s: float = 0.0
    ttft_ended: float = 0.0
    tpot_s: float = 0.0
    tpot_ended: float = 0.0
    completion_s: float = 0.0
    completion_ended: float = 0.0
    output_tokens: float = 0.0
    outputs: float = 0.0
    cost_usd: float = 0.0
    costed: float = 0.0
    succeeded: float = 0.0
    failed: float = 0.0
    timed_out: float = 0.0
    truncated: float = 0.0


@dataclass(slots=True)
class Learnt:
    """Estimates that halve every `half_life_s`. `ttft` and `completion` are the waits' histograms."""

    half_life_s: float
    has_tails: bool = True  # False: no histograms are kept
    num_samples: int = 0
    sums: Sums = field(default_factory=Sums)
    ttft: DecayedHistogram = field(init=False)
    completion: DecayedHistogram = field(init=False)
    _landmark_s: float | None = None

    def __post_init__(self) -> None:
        self.ttft, self.completion = DecayedHistogram(self.half_life_s), DecayedHistogram(self.half_life_s)

    def weight_of(self, now: float) -> float:
        """What a sample of this moment weighs at the landmark: divide a sum by it to have it as of now."""
        if self._landmark_s is None:
            self._landmark_s = now
        half_lives = (now - self._landmark_s) / self.half_life_s
        if half_lives > _RESCALE_AT:
            self._rescale(now, half_lives)
            return 1.0
        return math.exp2(half_lives) if half_lives > 0.0 else 1.0

    def observe(self, outcome: Outcome, now: float) -> None:
        sums, weight, result = self.sums, self.weight_of(now), outcome.result
        self.num_samples += 1
        if result == "ok":
            sums.succeeded += weight
            self._learn_speed(outcome, weight, now)
        elif outcome.is_failure:
            sums.failed += weight
        if result in ("timeout_first_token", "hedge_lost"):
            sums.ttft_s += outcome.total_s * weight
            if self.has_tails:
                self.ttft.add(outcome.total_s, now)
        if result in TIMEOUTS:
            sums.timed_out += weight
            sums.completion_s += outcome.total_s * weight
            if self.has_tails:
                self.completion.add(outcome.total_s, now)
        if outcome.is_truncated:
            sums.truncated += weight
        if outcome.cost_usd is not None:
            sums.cost_usd += outcome.cost_usd * weight
            sums.costed += weight

    def _learn_speed(self, outcome: Outcome, weight: float, now: float) -> None:
        sums = self.sums
        sums.completion_s += outcome.total_s * weight
        sums.completion_ended += weight
        if self.has_tails:
            self.completion.add(outcome.total_s, now)
        if outcome.ttft_s is not None:
            sums.ttft_s += outcome.ttft_s * weight
            sums.ttft_ended += weight
            if self.has_tails:
                self.ttft.add(outcome.ttft_s, now)
        if outcome.tpot_s is not None:
            sums.tpot_s += outcome.tpot_s * weight
            sums.tpot_ended += weight
        if outcome.output_tokens:
            sums.output_tokens += outcome.output_tokens * weight
            sums.outputs += weight

    def _rescale(self, now: float, half_lives: float) -> None:
        factor = math.exp2(-half_lives) if half_lives < 1000.0 else 0.0
        for name in Sums.__slots__:
            setattr(self.sums, name, getattr(self.sums, name) * factor)
        self._landmark_s = now
