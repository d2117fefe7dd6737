"""Retry and hedge budgets beside naive models that go over their whole history."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.retries import MOST_SAVED, RESERVE_PER_S, WINDOW_S, HedgeBudget, RetryBudget

steps = st.lists(
    st.tuples(st.sampled_from([0.0, 0.01, 0.5, 3.0, 10.0, 500.0]), st.floats(0.0, 1.0), st.booleans()),
    max_size=50,
)


@given(steps)
def test_a_retry_budget_drifts_to_its_reserve_between_what_is_put_in_and_taken(
    history: list[tuple[float, float, bool]],
) -> None:
    """Step by step: the balance goes linearly to the reserve within the window, and never below zero."""
    budget, now, balance = RetryBudget(), 0.0, RESERVE_PER_S * WINDOW_S
    for wait_s, put_in, takes in history:
        now += wait_s
        kept = max(0.0, 1.0 - wait_s / WINDOW_S)
        balance = kept * balance + (1.0 - kept) * RESERVE_PER_S * WINDOW_S + put_in
        budget.deposit(put_in, now)
        if takes and abs(balance - 1.0) > 1e-6:
            assert budget.withdraw(now) is (balance >= 1.0)
            balance -= balance >= 1.0
        assert budget.balance == pytest.approx(balance)
        assert balance >= 0.0


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.05, 0.1, 0.5, 1.0]), st.booleans()), max_size=200))
def test_hedges_stay_within_their_share_of_any_stretch_of_calls(history: list[tuple[float, bool]]) -> None:
    budget, hedged = HedgeBudget(), []
    for put_in, wants in history:
        budget.deposit(put_in)
        hedged.append(wants and budget.withdraw())
    allowed = [0.0, *accumulate(put_in for put_in, _ in history)]
    spent = [0, *accumulate(int(was) for was in hedged)]
    for first in range(0, len(history), 7):
        for last in range(first + 1, len(history) + 1, 5):
            within = allowed[last] - allowed[first] + (MOST_SAVED if first else 0.0)
            assert spent[last] - spent[first] <= within + 1e-6


@given(st.integers(1, 100), st.sampled_from([0.05, 0.1, 0.5, 1.0]))
def test_a_hedge_that_was_paid_for_is_given(calls: int, share: float) -> None:
    budget = HedgeBudget()
    given_ = 0
    for _ in range(calls):
        budget.deposit(share)
        given_ += budget.withdraw()
    assert given_ == int(calls * share + 1e-6)


def test_no_more_hedges_are_saved_up_than_the_most() -> None:
    budget = HedgeBudget()
    for _ in range(100):
        budget.deposit(1.0)
    assert sum(budget.withdraw() for _ in range(100)) == MOST_SAVED


def test_a_clock_that_goes_back_takes_nothing_away() -> None:
    budget = RetryBudget()
    for _ in range(40):
        budget.deposit(1.0, 1_000.0)
    saved = budget.balance
    budget.deposit(0.0, 990.0)
    assert budget.balance == saved
