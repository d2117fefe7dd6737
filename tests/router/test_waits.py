"""How soon a target that became slow, or well again, is known to be so, and what does not count as that."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.digest import Digest
from router.outcome import Outcome
from router.waits import Waits

BEGUN = 1_000.0


def served(
    waits: Waits, at: float, times: float = 1.0, *, shape: str = "general", load: int = 3, tokens: int = 51
) -> float:
    """A whole stream: begun, its first token, its end. Returns when that was."""
    ttft_s, tpot_s = 0.4 * times, 0.02 * times
    ends = at + ttft_s + (tokens - 1) * tpot_s
    call = waits.start(shape, load, at, is_stream=True)
    waits.first_token(shape, ttft_s, call, at + ttft_s)
    waits.end(Outcome("a", shape, "ok", ends - at, ttft_s, tpot_s, tokens), call, ends)
    return ends


def settled(*shapes: str) -> tuple[Waits, float]:
    """A target that has served a hundred calls, each about as quickly as the others."""
    waits, now, chance = Waits(), BEGUN, Random(1)
    for call in range(100):
        now = served(
            waits, now, chance.lognormvariate(0.0, 0.2), shape=(shapes or ("general",))[call % 2 - 1]
        )
    return waits, now


def ttft_s(waits: Waits, shape: str = "general") -> float:
    return math.exp(waits.first.idle(shape))


def tpot_s(waits: Waits, shape: str = "general") -> float:
    return math.exp(waits.token.idle(shape))


def test_a_few_calls_of_one_shape_tell_that_a_target_is_slow_for_all() -> None:
    waits, now = settled("general", "support")
    for _ in range(4):
        now = served(waits, now, 10.0, shape="support")
    for shape in ("general", "support"):
        assert ttft_s(waits, shape) == pytest.approx(4.0, rel=0.3)
        assert tpot_s(waits, shape) == pytest.approx(0.2, rel=0.3)


def test_first_tokens_tell_of_the_pace_before_any_call_has_ended() -> None:
    waits, begun = settled()
    now = begun
    calls = []
    for _ in range(4):
        calls.append(waits.start("general", 3, now, is_stream=True))
        now += 4.0
        waits.first_token("general", 4.0, calls[-1], now)
    assert tpot_s(waits) > 0.1
    waits.end(Outcome("a", "general", "ok", now - begun, 4.0, 0.02, 600), calls[0], now)
    assert tpot_s(waits) > 0.1  # it began before the change was known: who knows how fast it is now
    for _ in range(2):
        call = waits.start("general", 3, now, is_stream=True)
        waits.first_token("general", 4.0, call, now + 4.0)
        waits.end(Outcome("a", "general", "ok", 4.4, 4.0, 0.02, 21), call, now + 4.4)
        now += 5.0
    assert tpot_s(waits) == pytest.approx(0.02, rel=0.3)


def test_one_fast_call_tells_that_a_slow_target_is_well_again() -> None:
    waits, now = settled()
    for _ in range(6):
        now = served(waits, now, 10.0)
    served(waits, now)
    assert ttft_s(waits) == pytest.approx(0.4, rel=0.3)


def test_a_single_slow_call_is_no_new_regime() -> None:
    waits, now = settled()
    served(waits, now, 30.0)
    assert ttft_s(waits) == pytest.approx(0.4, rel=0.3)


def test_calls_that_still_wait_tell_that_a_target_is_slow() -> None:
    waits, now = settled()
    calls = [waits.start("general", 3, now, is_stream=True) for _ in range(5)]
    assert waits.overdue(now + 0.4) == (0.0, 0)
    slower, hung = waits.overdue(now + 4.0)
    assert math.exp(slower) == pytest.approx(10.0, rel=0.3)
    assert hung == 5
    for call in calls:
        waits.first_token("general", 0.5, call, now + 0.5)
    assert waits.overdue(now + 4.0) == (0.0, 0)


def test_a_call_of_an_old_regime_that_still_waits_says_nothing_of_the_new_one() -> None:
    waits, now = settled()
    waits.start("general", 3, now, is_stream=True)
    for _ in range(4):
        now = served(waits, now, 10.0)
    served(waits, now)
    assert waits.overdue(now + 100.0) == (0.0, 0)


def test_streams_given_up_without_a_first_token_took_at_least_so_long() -> None:
    waits, now = settled()
    for _ in range(4):
        call = waits.start("general", 3, now, is_stream=True)
        now += 8.0
        waits.end(Outcome("a", "general", "timeout_first_token", 8.0), call, now)
    assert ttft_s(waits) == pytest.approx(8.0, rel=0.3)
    assert not waits.waiting


def test_load_explains_waits_that_grow_with_it() -> None:
    waits, now, chance = Waits(), BEGUN, Random(2)
    for _ in range(400):
        load = chance.randrange(20)
        now = served(waits, now, math.exp(0.05 * load), load=load)
    assert waits.token.slope == pytest.approx(0.05, rel=0.2)
    assert waits.first.slope == pytest.approx(0.05, rel=0.2)


def test_calls_that_are_not_streamed_are_known_by_their_whole_time() -> None:
    waits = Waits()
    for begun in range(10):
        call = waits.start("general", 0, BEGUN + 3.0 * begun, is_stream=False)
        assert not waits.waiting
        waits.end(Outcome("a", "general", "ok", 2.0), call, BEGUN + 3.0 * begun + 2.0)
    assert math.exp(waits.whole.idle("general")) == pytest.approx(2.0, rel=0.1)
    assert waits.slow("general", None) == pytest.approx((1.0, 1.0))


def test_an_end_without_a_begin_teaches_too_and_a_failure_teaches_no_wait() -> None:
    waits = Waits()
    waits.end(Outcome("a", "general", "http_error", 9.0, http_status=500), None, BEGUN)
    assert not waits.first.pooled.weight
    waits.end(Outcome("a", "general", "ok", 9.0, ttft_s=0.2), None, BEGUN)
    assert ttft_s(waits) < 0.5


@given(st.lists(st.floats(0.05, 20.0), min_size=1, max_size=40), st.floats(1.0, 100.0))
def test_a_target_that_takes_so_many_times_as_long_is_expected_to(found: list[float], times: float) -> None:
    """Whatever its regimes: nothing is reckoned in seconds but the cold guess, which moves with them here."""
    quick, slow = Waits(), Waits()
    slow.first.cold_s *= times
    for call, wait_s in enumerate(found):
        quick.first.learn("general", wait_s, None, BEGUN + call)
        slow.first.learn("general", wait_s * times, None, BEGUN + call)
    assert ttft_s(slow) == pytest.approx(times * ttft_s(quick), rel=1e-6)


@given(st.lists(st.floats(0.3, 0.5), max_size=30), st.sampled_from([1.0, 10.0]))
def test_a_digest_teaches_what_its_outcomes_teach(waits_s: list[float], times: float) -> None:
    (one, now), (other, _) = settled(), settled()
    digest = Digest()
    for wait_s in waits_s:
        outcome = Outcome("a", "general", "ok", 2.0 * times, wait_s * times, 0.02 * times, 50)
        one.end(outcome, None, now + 100.0)
        digest.add(outcome)
    other.absorb("general", digest, now + 100.0)
    for wait in (ttft_s, tpot_s):
        assert wait(other) == pytest.approx(wait(one), rel=0.25)


def test_what_others_saw_before_a_target_became_slow_does_not_make_it_fast_again() -> None:
    waits, now = settled()
    for _ in range(4):
        now = served(waits, now, 10.0)
    digest = Digest()
    for _ in range(10):
        digest.add(Outcome("a", "general", "ok", 1.4, 0.4, 0.02, 51))
    slow_s, found_s = ttft_s(waits), waits.first.changed_s
    waits.absorb("general", digest, found_s + 0.5)  # these calls began before
    assert (ttft_s(waits), tpot_s(waits)) == pytest.approx((slow_s, 0.2), rel=0.3)
    waits.absorb("general", digest, now + 10.0)
    assert (ttft_s(waits), tpot_s(waits)) == pytest.approx((0.4, 0.02), rel=0.3)
