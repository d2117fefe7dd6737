"""`Waits`: how long calls wait at one target: for the first token, for each further one, for the whole.

A first token teaches at once; a call that still waits for it says "at least so long", and calls begun in an old
regime say nothing of the new one.
In: begins, first tokens, outcomes, digests of outcomes. Out: three `Pace`s, and what the calls on their way
say beyond them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from router.digest import COLLECTED_S, Digest
from router.histogram import midpoint
from router.learnt import Slow
from router.outcome import NO_FIRST_TOKEN, Outcome
from router.pace import ALARM_SLOW, MOST_SPREADS, SLACK, Pace

COLD_TTFT_S = 1.0
COLD_TPOT_S = 0.03
COLD_WHOLE_S = 5.0
HUNG_SPREADS = 4.0  # 10 times as long as usual or so: one call in 500 of a target that is well
MEAN_SHARE = 0.02  # of the last call in `mean_s`


@dataclass(slots=True, eq=False)
class Began:
    """A call at the target, handed to whoever tells of its first token and its end.

    `expected`: the usual logarithm of its wait for a first token at the load it met. `is_waiting`: for that token,
    which a call that is not streamed never gets.
    """

    at_s: float
    load: int
    expected: float
    is_waiting: bool


@dataclass(slots=True)
class Waits:
    """Of one target. Waits: seconds to the first token, seconds a token after it, seconds of a call not streamed."""

    first: Pace = field(default_factory=lambda: Pace(COLD_TTFT_S, 0.5))
    token: Pace = field(default_factory=lambda: Pace(COLD_TPOT_S, 0.3))
    whole: Pace = field(default_factory=lambda: Pace(COLD_WHOLE_S, 0.7))
    waiting: dict[Began, None] = field(
        default_factory=dict, compare=False
    )  # for a first token, as they began
    heard_s: float = -math.inf  # when something was learnt last
    mean_s: float = 0.0  # of whole calls of whatever shapes; 0 = none has ended

    def start(self, shape: str, load: int, now: float, is_stream: bool) -> Began:
        if not is_stream:
            return Began(now, load, 0.0, False)
        first = self.first
        expected = first.usually(shape) + first.slope * (load - first.load)
        call = Began(now, load, expected, True)
        self.waiting[call] = None
        return call

    def first_token(self, shape: str, ttft_s: float, call: Began, now: float) -> None:
        if call.is_waiting:
            call.is_waiting = False
            del self.waiting[call]
            self._learn_first(shape, ttft_s, call, now)

    def end(self, outcome: Outcome, call: Began | None, now: float) -> Slow:
        """Takes in what became of a call; returns how much longer than usual it was expected to wait."""
        result, shape, ttft_s = outcome.result, outcome.shape, outcome.ttft_s
        is_new = call is None or call.is_waiting
        if call is not None and call.is_waiting:
            call.is_waiting = False
            del self.waiting[call]
        if result == "ok":
            self.mean_s += (outcome.total_s - self.mean_s) * (MEAN_SHARE if self.mean_s else 1.0)
            if ttft_s is None:
                self._learn(self.whole, shape, outcome.total_s, call, now)
            else:
                if is_new:
                    self._learn_first(shape, ttft_s, call, now)
                if outcome.tpot_s is not None:
                    self._learn(self.token, shape, outcome.tpot_s, call, now)
        elif result in NO_FIRST_TOKEN:
            if is_new:
                self._learn_first(shape, outcome.total_s, call, now)
            else:
                self._learn(self.whole, shape, outcome.total_s, call, now)
        return self.slow(shape, outcome.output_tokens, call)

    def absorb(self, shape: str, digest: Digest, now: float) -> None:
        """What others saw, at loads unknown; their streams' whole waits are known from their parts. Calls that may have
        begun in an old regime say nothing of the new one."""
        sums, ended_s, token_changed_s = digest.sums, now - COLLECTED_S, self.token.changed_s
        for pace, changed_s, buckets in (
            (self.first, self.first.changed_s, digest.ttft),
            (self.first, self.first.changed_s, digest.ttft_at_least),
            (self.whole, self.whole.changed_s, {} if digest.ttft else digest.completion),
        ):
            for k, count in buckets.items():
                wait_s = midpoint(k)
                if ended_s - wait_s < changed_s:
                    continue
                if pace.learn(shape, wait_s, None, now, count) and pace is self.first:
                    self.token.follow(self.first)
        if sums.tpot_ended > 0.0 and ended_s >= token_changed_s:
            self.token.learn(shape, sums.tpot_s / sums.tpot_ended, None, now, sums.tpot_ended)
        self.heard_s = max(self.heard_s, now)

    def overdue(self, now: float) -> tuple[float, int]:
        """What the calls that still wait for their first token say; mostly nothing, as in its normal time none does.

        The logarithm of how many times as long the target takes as it seemed to; and how many of them wait so long
        that they may wait for ever.
        """
        first, drift = self.first, self.first.slower
        excess, level_sum, weight, hung = drift.excess, drift.level_sum, drift.weight, 0
        for call in self.waiting:
            if first.changed_s <= call.at_s < now:
                level = math.log(now - call.at_s) - call.expected
                spreads = (level - first.now) / first.spread
                if spreads > SLACK:
                    hung += spreads > HUNG_SPREADS
                    excess += min(spreads, MOST_SPREADS) - SLACK
                    level_sum, weight = level_sum + level, weight + 1.0
        return max(0.0, level_sum / weight - first.now) if excess > ALARM_SLOW else 0.0, hung

    def slow(self, shape: str, output_tokens: float | None, call: Began | None = None) -> Slow:
        """How much longer than usual waits are just now: of a stream its parts', else the whole's."""
        first, token = self.first, self.token
        if not first.pooled.weight and self.whole.pooled.weight:
            return 1.0, _times(self.whole, call)
        ttft = _times(first, call)
        if not output_tokens:
            return ttft, ttft
        first_s = math.exp(first.usually(shape))
        rest_s = output_tokens * math.exp(token.usually(shape))
        return ttft, (first_s * ttft + rest_s * _times(token, call)) / (first_s + rest_s)

    def _learn_first(self, shape: str, wait_s: float, call: Began | None, now: float) -> None:
        """A new regime of the first token's wait is taken for one of the pace too, until calls that end tell of it."""
        if self._learn(self.first, shape, wait_s, call, now):
            self.token.follow(self.first)

    def _learn(self, pace: Pace, shape: str, wait_s: float, call: Began | None, now: float) -> bool:
        if now > self.heard_s:
            self.heard_s = now
        if call is None:
            return pace.learn(shape, wait_s, None, now)
        return call.at_s >= pace.changed_s and pace.learn(shape, wait_s, call.load, now)


def _times(pace: Pace, call: Began | None) -> float:
    if call is None:
        return math.exp(pace.now)
    return math.exp(pace.now + pace.slope * (call.load - pace.load))
