from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.breaker import CALLS_TO_RATE, FAILURES_TO_SHED, LONGEST_ASKED_S, Breaker


def test_sheds_after_three_failures_in_a_row_then_probes_then_admits() -> None:
    breaker = Breaker()
    for _ in range(FAILURES_TO_SHED - 1):
        breaker.fail(0.0)
    assert breaker.state(0.0) == "admitting"
    breaker.fail(0.0)
    assert breaker.state(1.9) == "shedding"
    assert breaker.state(2.0) == "probing"
    breaker.succeed(0.0)
    assert breaker.state(2.0) == "admitting"


def test_a_success_between_failures_starts_the_count_again() -> None:
    breaker = Breaker()
    for now in range(0, 1000, 20):
        breaker.fail(now)
        breaker.succeed(now)
        breaker.fail(now)
        breaker.fail(now)
        assert breaker.state(now) == "admitting"
        breaker.succeed(now)


def test_sheds_where_more_fail_than_not_though_never_three_in_a_row() -> None:
    breaker, failed = Breaker(), 0
    while breaker.state(0.0) == "admitting":
        breaker.succeed(0.0)
        breaker.fail(0.0)
        failed += 1
    assert failed == CALLS_TO_RATE / 2
    breaker.succeed(3.0)
    breaker.fail(3.0)
    assert breaker.state(3.0) == "admitting"


def test_each_failed_probe_doubles_the_pause_up_to_a_minute() -> None:
    breaker, now, pauses = Breaker(), 0.0, []
    for _ in range(FAILURES_TO_SHED):
        breaker.fail(now)
    for _ in range(8):
        now = breaker.until_s
        assert breaker.state(now) == "probing"
        breaker.fail(now)
        pauses.append(breaker.until_s - now)
    assert pauses == [4.0, 8.0, 16.0, 20.0, 20.0, 20.0, 20.0, 20.0]


def test_retry_after_sheds_at_once_for_that_long() -> None:
    breaker = Breaker()
    breaker.fail(10.0, retry_after_s=7.0)
    assert breaker.state(16.9) == "shedding"
    assert breaker.state(17.0) == "probing"


def test_what_had_been_taken_before_does_not_end_the_patience_asked_for() -> None:
    breaker = Breaker()
    breaker.fail(10.0, retry_after_s=7.0)
    breaker.succeed(12.0)
    assert breaker.state(16.9) == "shedding"
    breaker.succeed(17.0)
    assert breaker.state(17.0) == "admitting"


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100), st.none() | st.floats(0, 1e6)), max_size=60))
def test_never_sheds_longer_than_the_longest_pause(steps: list[tuple[bool, float, float | None]]) -> None:
    breaker, now = Breaker(), 0.0
    for is_success, wait, retry_after_s in steps:
        now += wait
        if is_success:
            breaker.succeed(now)
            assert breaker.state(now) == "admitting" or now < breaker.asked_until_s
        else:
            breaker.fail(now, retry_after_s)
        assert breaker.until_s - now <= LONGEST_ASKED_S + 1e-9
