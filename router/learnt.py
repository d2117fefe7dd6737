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
from typing import TYPE_CHECKING

from router.histogram import DecayedHistogram, midpoint
from router.outcome import NO_FIRST_TOKEN, TIMEOUTS, Outcome

if TYPE_CHECKING:
    from router.digest import Digest

SURPRISE = 4.0  # so many failures would have been expected where there was none: one chance in e^4
TAILS_LAST = 30.0  # half-lives as long as those of everything else
_RESCALE_AT = 64.0  # half-lives since the landmark; 2^64 is far from overflow and the rescale stays rare


Slow = tuple[float, float]  # how many times as long as usual: the first token's wait, and the whole
AS_USUAL: Slow = (1.0, 1.0)


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
        else:
            if outcome.is_failure:
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
class Tasks:
    """How many tasks came to a good or a bad end, each by the share that a target had in it; decayed."""

    half_life_s: float
    completed: float = 0.0
    failed: float = 0.0
    _at_s: float = 0.0

    def add(self, share: float, is_completed: bool, now: float) -> None:
        kept = math.exp2(-max(0.0, now - self._at_s) / self.half_life_s)
        self._at_s = max(self._at_s, now)
        self.completed = self.completed * kept + share * is_completed
        self.failed = self.failed * kept + share * (not is_completed)


@dataclass(slots=True)
class Learnt:
    """Estimates that halve every `half_life_s`. `ttft` and `completion` are the waits' histograms."""

    half_life_s: float
    num_samples: int = 0
    sums: Sums = field(default_factory=Sums)
    ttft: DecayedHistogram = field(init=False)
    completion: DecayedHistogram = field(init=False)
    tasks: Tasks = field(init=False)
    _landmark_s: float | None = None

    def __post_init__(self) -> None:
        self.ttft, self.completion = (DecayedHistogram(TAILS_LAST * self.half_life_s) for _ in range(2))
        self.tasks = Tasks(TAILS_LAST * self.half_life_s)

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
        result, (ttft_times, times) = outcome.result, slow
        self.num_samples += 1
        self.sums.add(outcome, self.weight_of(now))
        if result == "ok":
            if outcome.ttft_s is not None:
                self.ttft.add(outcome.ttft_s / ttft_times, now)
            self.completion.add(outcome.total_s / times, now)
            return
        if result in NO_FIRST_TOKEN:
            self.ttft.add(outcome.total_s / ttft_times, now)
        if result in TIMEOUTS:
            self.completion.add(outcome.total_s / times, now)

    def is_surprised_by(self, successes: int) -> bool:
        """Whether so many in a row are hardly to be believed of a target that fails as often as this one did."""
        return successes * self.sums.failed > SURPRISE * (self.sums.failed + self.sums.succeeded)

    def forgive(self) -> None:
        """Failures were of a time that has ended."""
        self.sums.failed = self.sums.timed_out = 0.0

    def absorb(self, digest: Digest, now: float, slow: Slow = AS_USUAL) -> None:
        """Takes in what others saw at that moment, or what was seen earlier."""
        self.num_samples += math.ceil(digest.num_samples)
        weight = self.weight_of(now)
        for name in Sums.__slots__:
            setattr(self.sums, name, getattr(self.sums, name) + getattr(digest.sums, name) * weight)
        for known, times, *told in (
            (self.ttft, slow[0], digest.ttft, digest.ttft_at_least),
            (self.completion, slow[1], digest.completion, digest.completion_at_least),
        ):
            for buckets in told:
                for k, n in buckets.items():
                    known.add(midpoint(k) / times, now, n)

    def _rescale(self, now: float, half_lives: float) -> None:
        factor = math.exp2(-half_lives) if half_lives < 1000.0 else 0.0
        for name in Sums.__slots__:
            setattr(self.sums, name, getattr(self.sums, name) * factor)
        self._landmark_s = now
