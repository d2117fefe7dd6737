"""`Waits`: how long calls wait at one target: for the first token, for each further one, for the whole.

Calls on their way are known by the moment they began. A first token teaches at once; a call that still waits for it
says "at least so long", and calls begun in an old regime say nothing of the new one.
In: begins, first tokens, outcomes, digests of outcomes. Out: three `Pace`s, and what the calls on their way
say beyond them.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from dataclasses import dataclass, field
from itertools import islice, takewhile

from router.digest import COLLECTED_S, Digest
from router.histogram import midpoint
from router.learnt import Slow
from router.outcome import NO_FIRST_TOKEN, Outcome
from router.pace import ALARM_SLOW, MOST_SPREADS, SLACK, Pace

COLD_TTFT_S = 1.0
COLD_TPOT_S = 0.03
COLD_WHOLE_S = 5.0
SAME_S = 1e-4  # clocks are read anew at each event


@dataclass(slots=True)
class Began:
    """A call at the target. `expected`: the usual logarithm of its wait for a first token at the load it met.

    `is_waiting`: for that token, which a call that is not streamed never gets.
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
    calls: list[Began] = field(default_factory=list)  # oldest first
    heard_s: float = -math.inf  # when something was learnt last

    def start(self, shape: str, load: int, now: float, is_stream: bool) -> None:
        first = self.first
        expected = first.idle(shape) - first.now + first.slope() * (load - first.load)
        insort(self.calls, Began(now, load, expected, is_stream), key=_at_s)

    def first_token(self, shape: str, ttft_s: float, now: float) -> None:
        call = self._find(now - ttft_s, is_waiting=True)
        if call is not None and call.is_waiting:
            call.is_waiting = False
            self._learn_first(shape, ttft_s, call, now)

    def end(self, outcome: Outcome, now: float) -> Slow:
        """Takes in what became of a call; returns how much longer than usual it was expected to wait."""
        call = self._find(now - outcome.total_s, is_waiting=outcome.ttft_s is None)
        if call is not None:
            self.calls.remove(call)
        if outcome.result in NO_FIRST_TOKEN:
            if call is None or call.is_waiting:
                self._learn_first(outcome.shape, outcome.total_s, call, now)
            else:
                self._learn(self.whole, outcome.shape, outcome.total_s, call, now)
        elif outcome.result == "ok" and outcome.ttft_s is None:
            self._learn(self.whole, outcome.shape, outcome.total_s, call, now)
        elif outcome.result == "ok" and outcome.ttft_s is not None:
            if call is None or call.is_waiting:
                self._learn_first(outcome.shape, outcome.ttft_s, call, now)
            if outcome.tpot_s is not None:
                self._learn(self.token, outcome.shape, outcome.tpot_s, call, now)
        return self.slow(outcome.shape, outcome.output_tokens, call)

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

    def slower(self, now: float) -> float:
        """The logarithm of how many times as long the target takes as it seemed to, by the calls that still wait for
        their first token: mostly 0, as a call in its normal time tells nothing."""
        first, drift = self.first, self.first.slower
        excess, level_sum, weight = drift.excess, drift.level_sum, drift.weight
        for call in self.calls:
            if call.is_waiting and first.changed_s <= call.at_s < now:
                level = math.log(now - call.at_s) - call.expected
                spreads = min((level - first.now) / first.spread, MOST_SPREADS)
                if spreads > SLACK:
                    excess, level_sum, weight = excess + spreads - SLACK, level_sum + level, weight + 1.0
        return max(0.0, level_sum / weight - first.now) if excess > ALARM_SLOW else 0.0

    def slow(self, shape: str, output_tokens: float | None, call: Began | None = None) -> Slow:
        """How much longer than usual waits are just now: of a stream its parts', else the whole's."""
        first, token = self.first, self.token
        if not first.pooled.weight and self.whole.pooled.weight:
            return Slow(1.0, _times(self.whole, call))
        ttft = _times(first, call)
        first_s = math.exp(first.idle(shape) - first.now)
        rest_s = (output_tokens or 0.0) * math.exp(token.idle(shape) - token.now)
        return Slow(ttft, (first_s * ttft + rest_s * _times(token, call)) / (first_s + rest_s))

    def _learn_first(self, shape: str, wait_s: float, call: Began | None, now: float) -> None:
        """A new regime of the first token's wait is taken for one of the pace too, until calls that end tell of it."""
        if self._learn(self.first, shape, wait_s, call, now):
            self.token.follow(self.first)

    def _learn(self, pace: Pace, shape: str, wait_s: float, call: Began | None, now: float) -> bool:
        self.heard_s = max(self.heard_s, now)
        if call is None:
            return pace.learn(shape, wait_s, None, now)
        return call.at_s >= pace.changed_s and pace.learn(shape, wait_s, call.load, now)

    def _find(self, at_s: float, is_waiting: bool) -> Began | None:
        """Of calls begun at once rather one that waits, or rather one that does not."""
        first = bisect_left(self.calls, at_s - SAME_S, key=_at_s)
        near = takewhile(lambda call: call.at_s <= at_s + SAME_S, islice(self.calls, first, None))
        return min(
            near, key=lambda call: (call.is_waiting != is_waiting, abs(call.at_s - at_s)), default=None
        )


def _times(pace: Pace, call: Began | None) -> float:
    extra = 0.0 if call is None else pace.slope() * (call.load - pace.load)
    return math.exp(pace.now + extra)


def _at_s(call: Began) -> float:
    return call.at_s
