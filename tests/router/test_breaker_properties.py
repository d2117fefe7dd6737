"""The breaker beside a naive model, which keeps every call and counts them anew each time."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.breaker import (
    CALLS_TO_RATE,
    FAILURES_TO_SHED,
    FIRST_PAUSE_S,
    HALF_LIFE_S,
    LONGEST_ASKED_S,
    LONGEST_PAUSE_S,
    SHARE_TO_SHED,
    Breaker,
)


@dataclass(frozen=True)
class Call:
    at_s: float
    has_failed: bool


@dataclass(frozen=True)
class Pause:
    ends_s: float
    lasts_s: float


class BreakerBesideItsModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.breaker, self.now = Breaker(), 1_000.0
        self.calls: list[Call] = []  # since a success last ended a pause
        self.pauses: list[Pause] = []  # since a success last ended one
        self.in_a_row = 0
        self.asked_until_s = 0.0

    @property
    def ends_s(self) -> float:
        return max(pause.ends_s for pause in self.pauses)

    def over_half_fail(self) -> bool | None:
        """Of the calls of the last seconds, the newest counting most; None where rounding decides."""
        weights = [(0.5 ** ((self.now - call.at_s) / HALF_LIFE_S), call.has_failed) for call in self.calls]
        calls = sum(weight for weight, _ in weights)
        failed = sum(weight for weight, has_failed in weights if has_failed)
        margins = (calls - CALLS_TO_RATE, failed - SHARE_TO_SHED * calls)
        return None if min(map(abs, margins)) < 1e-6 else all(margin > 0.0 for margin in margins)

    def rest(self, lasts_s: float) -> None:
        self.pauses.append(Pause(self.now + lasts_s, lasts_s))

    @rule(seconds=st.sampled_from([0.001, 0.5, 1.999, 2.0, 3.7, 30.0, 61.0, 4_000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.pauses)
    @rule()
    def wait_out_the_pause(self) -> None:
        self.now = max(self.now, self.ends_s)

    @rule(times=st.integers(1, 6))
    def succeed(self, times: int) -> None:
        for _ in range(times):
            self.breaker.succeed(self.now)
            if self.pauses and self.now >= self.asked_until_s:
                self.calls, self.pauses = [], []
            self.calls.append(Call(self.now, False))
            self.in_a_row = 0

    @rule(retry_after_s=st.sampled_from([None, None, None, 0.5, 45.0, 3_600.0]))
    def fail(self, retry_after_s: float | None) -> None:
        self.breaker.fail(self.now, retry_after_s)
        self.calls.append(Call(self.now, True))
        self.in_a_row += 1
        if retry_after_s is not None:
            self.rest(min(retry_after_s, LONGEST_ASKED_S))
            self.asked_until_s = self.ends_s
        elif self.pauses:
            if self.now >= self.ends_s:  # a probe
                self.rest(min(max(2 * self.pauses[-1].lasts_s, FIRST_PAUSE_S), LONGEST_PAUSE_S))
        else:
            fails = self.in_a_row >= FAILURES_TO_SHED or self.over_half_fail()
            if self.breaker.state(self.now) == "shedding" if fails is None else fails:
                self.rest(FIRST_PAUSE_S)

    @rule(times=st.sampled_from([0, 1, 10]))
    def hear(self, times: int) -> None:
        self.breaker.hear(times)
        self.in_a_row = max(self.in_a_row, min(times, FAILURES_TO_SHED - 1))

    @rule(pattern=st.lists(st.booleans(), min_size=4, max_size=20))
    def serve(self, pattern: list[bool]) -> None:
        for is_success in pattern:
            if is_success:
                self.succeed(times=1)
            else:
                self.fail(retry_after_s=None)

    @invariant()
    def they_agree(self) -> None:
        expected = "admitting" if not self.pauses else "shedding" if self.now < self.ends_s else "probing"
        assert self.breaker.state(self.now) == expected

    @invariant()
    def it_comes_to_an_end(self) -> None:
        assert self.breaker.state(self.now + max(LONGEST_PAUSE_S, LONGEST_ASKED_S)) != "shedding"


TestBreakerBesideItsModel = BreakerBesideItsModel.TestCase
TestBreakerBesideItsModel.settings = settings(max_examples=300, stateful_step_count=20)
