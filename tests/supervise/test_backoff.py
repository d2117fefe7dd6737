"""Back-off: how it grows, where it ends, when it starts anew."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.supervise.backoff import FIRST_S, LONGEST_S, STEADY_S, delay_s, failures_in_a_row


def test_the_first_delays_double_up_to_the_longest() -> None:
    assert [delay_s(failures) for failures in range(1, 8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]


@given(st.integers(min_value=1, max_value=10**9))
def test_a_delay_never_shrinks_with_more_failures_and_stays_in_its_bounds(failures: int) -> None:
    assert FIRST_S <= delay_s(failures) <= delay_s(failures + 1) <= LONGEST_S


def test_without_a_failure_there_is_no_delay() -> None:
    with pytest.raises(ValueError, match="0 failures"):
        delay_s(0)


@given(st.integers(min_value=0, max_value=10**6), st.floats(min_value=0, max_value=1e9))
def test_a_part_that_ran_steadily_starts_anew_and_any_other_is_counted_on(before: int, ran_s: float) -> None:
    assert failures_in_a_row(before, ran_s) == (1 if ran_s >= STEADY_S else before + 1)
