"""`Learnt`: what outcomes teach about one target, for one task shape or all of them; old ones count ever less.

Shares of success, costs and lengths follow the last half-lives. Histograms tell the form of waits, which outlasts
regimes: samples enter divided by how many times as long calls took just then.

Every sum is kept by forward decay (Cormode et al., ICDE 2009): a sample of time t enters with weight
2^((t − landmark) / half-life), so nothing old is touched, and reading divides by the weight of now. Waits are learnt
from finished and from censored samples (a call given up after T seconds says "at least T"): the mean is the
maximum-likelihood one for exponential waits under right censoring, total time waited ÷ waits that ended.
Time is an argument.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from router.histogram import DecayedHistogram, midpoint
from router.outcome import NO_FIRST_TOKEN, TIMEOUTS, Outcome

if TYPE_CHECKING:
    from router.digest import Digest

TAILS_LAST = 30.0  # half-lives as long as those of everything else
_RESCALE_AT = 64.0  # half-lives since the landmark; 2^64 is far from overflow and the rescale stays rare


class Slow(NamedTuple):
    """How many times as long as usual waits are."""

    ttft: float = 1.0
    completion: float = 1.0


AS_USUAL = Slow()


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

    def add(self, outcome: Outcome, weight: float = 1.0) -> None:
        result = outcome.result
        if result == "ok":
            self.succeeded += weight
            self._add_speed(outcome, weight)
        elif outcome.is_failure:
            self.failed += weight
        if result in NO_FIRST_TOKEN:
            self.ttft_s += outcome.total_s * weight
        if result in TIMEOUTS:
            self.timed_out += weight
            self.completion_s += outcome.total_s * weight
        if outcome.is_truncated:
            self.truncated += weight
        if outcome.cost_usd is not None:
            self.cost_usd += outcome.cost_usd * weight
            self.costed += weight

    def _add_speed(self, outcome: Outcome, weight: float) -> None:
        self.completion_s += outcome.total_s * weight
        self.completion_ended += weight
        if outcome.ttft_s is not None:
            self.ttft_s += outcome.ttft_s * weight
            self.ttft_ended += weight
        if outcome.tpot_s is not None:
            self.tpot_s += outcome.tpot_s * weight
            self.tpot_ended += weight
        if outcome.output_tokens:
            self.output_tokens += outcome.output_tokens * weight
            self.outputs += weight


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
        self.ttft, self.completion = (DecayedHistogram(TAILS_LAST * self.half_life_s) for _ in range(2))

    def weight_of(self, now: float) -> float:
        """What a sample of this moment weighs at the landmark: divide a sum by it to have it as of now."""
        if self._landmark_s is None:
            self._landmark_s = now
        half_lives = (now - self._landmark_s) / self.half_life_s
        if half_lives > _RESCALE_AT:
            self._rescale(now, half_lives)
            return 1.0
        return math.exp2(half_lives) if half_lives > 0.0 else 1.0

    def observe(self, outcome: Outcome, now: float, slow: Slow = AS_USUAL) -> None:
        self.num_samples += 1
        self.sums.add(outcome, self.weight_of(now))
        if not self.has_tails:
            return
        if outcome.result == "ok" and outcome.ttft_s is not None:
            self.ttft.add(outcome.ttft_s / slow.ttft, now)
        elif outcome.result in NO_FIRST_TOKEN:
            self.ttft.add(outcome.total_s / slow.ttft, now)
        if outcome.result == "ok" or outcome.result in TIMEOUTS:
            self.completion.add(outcome.total_s / slow.completion, now)

    def absorb(self, digest: Digest, now: float, slow: Slow = AS_USUAL) -> None:
        """Takes in what others saw at that moment, or what was seen earlier."""
        self.num_samples += math.ceil(digest.num_samples)
        weight = self.weight_of(now)
        for name in Sums.__slots__:
            setattr(self.sums, name, getattr(self.sums, name) + getattr(digest.sums, name) * weight)
        if not self.has_tails:
            return
        for known, times, *told in (
            (self.ttft, slow.ttft, digest.ttft, digest.ttft_at_least),
            (self.completion, slow.completion, digest.completion, digest.completion_at_least),
        ):
            for buckets in told:
                for k, n in buckets.items():
                    known.add(midpoint(k) / times, now, n)

    def _rescale(self, now: float, half_lives: float) -> None:
        factor = math.exp2(-half_lives) if half_lives < 1000.0 else 0.0
        for name in Sums.__slots__:
            setattr(self.sums, name, getattr(self.sums, name) * factor)
        self._landmark_s = now
