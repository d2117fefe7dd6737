from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.retries import RESERVE_PER_S, WINDOW_S, RetryBudget


@given(st.floats(1.0, 200.0), st.floats(0.0, 0.5), st.integers(10, 60))
def test_repeats_stay_within_the_budget_and_the_reserve(rate: float, budget: float, seconds: int) -> None:
    """A target that always fails gets at most budget × calls + reserve of repeats."""
    bucket, calls, repeats = RetryBudget(), int(rate * seconds), 0
    for call in range(calls):
        now = call / rate
        bucket.deposit(budget, now)
        repeats += bucket.withdraw(now)
    assert repeats <= budget * calls + RESERVE_PER_S * (seconds + WINDOW_S) + 1


def test_rare_traffic_may_always_retry() -> None:
    bucket = RetryBudget()
    for hour in range(50):
        bucket.deposit(0.0, hour * 3600.0)
        assert bucket.withdraw(hour * 3600.0)


def test_what_is_not_used_expires() -> None:
    bucket = RetryBudget()
    for _ in range(1000):
        bucket.deposit(1.0, 0.0)
    later = [bucket.withdraw(WINDOW_S) for _ in range(20)]
    assert sum(later) == RESERVE_PER_S * WINDOW_S
