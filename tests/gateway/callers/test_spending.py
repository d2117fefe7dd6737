"""What callers have spent: own costs count at once, and not twice once the database shows them."""

from __future__ import annotations

from datetime import date
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.callers.spending import DAY_S, Snapshot, Spending, Spent, as_date, day_of, month_of

NOON = 1_795_262_400.0  # 2026-11-21 12:00:00 UTC
TODAY = day_of(NOON)


class Ledger:
    """A database in miniature: exchanges in the order they were recorded, written up to some point."""

    def __init__(self) -> None:
        self.recorded: list[tuple[UUID, str, int, int]] = []
        self.written = 0

    def record(self, caller: str, nusd: int, day: int = TODAY) -> UUID:
        self.recorded.append((uuid4(), caller, nusd, day))
        return self.recorded[-1][0]

    def write(self, count: int) -> None:
        self.written = min(self.written + count, len(self.recorded))

    def snapshot(self, asked: list[UUID], day: int = TODAY) -> Snapshot:
        rows = self.recorded[: self.written]
        spent = {
            caller: Spent(
                sum(nusd for _, who, nusd, on in rows if who == caller and on == day),
                sum(nusd for _, who, nusd, on in rows if who == caller and month_of(day) <= on <= day),
            )
            for caller in {row[1] for row in rows}
        }
        return Snapshot(day, spent, {row[0] for row in rows} & set(asked))


def test_own_costs_count_at_once() -> None:
    spending = Spending()
    assert spending.of("app", NOON) == Spent(0, 0)
    spending.add("app", 5, TODAY, uuid4())
    spending.add("app", 7, TODAY, uuid4())
    assert spending.of("app", NOON) == Spent(12, 12)
    assert spending.of("other", NOON) == Spent(0, 0)


def test_what_a_snapshot_shows_counts_once() -> None:
    spending, ledger = Spending(), Ledger()
    spending.of("app", NOON)
    for nusd in (5, 7):
        spending.add("app", nusd, TODAY, ledger.record("app", nusd))
    spending.take(ledger.snapshot(spending.end_batch()))
    assert spending.of("app", NOON).today == 12  # not written yet
    ledger.record("app", 100)  # another worker's
    ledger.write(3)
    spending.take(ledger.snapshot(spending.end_batch()))
    assert spending.of("app", NOON).today == 112


def test_what_is_settled_while_a_snapshot_is_under_way_is_not_forgotten() -> None:
    spending, ledger = Spending(), Ledger()
    spending.of("app", NOON)
    spending.add("app", 5, TODAY, ledger.record("app", 5))
    asked = spending.end_batch()
    ledger.write(1)
    snapshot = ledger.snapshot(asked)
    spending.add("app", 7, TODAY, ledger.record("app", 7))
    spending.take(snapshot)
    assert spending.of("app", NOON).today == 12


def test_a_record_that_never_arrives_counts_until_a_later_one_is_there() -> None:
    spending, ledger = Spending(), Ledger()
    spending.of("app", NOON)
    spending.add("app", 5, TODAY, uuid4())  # lost
    spending.take(ledger.snapshot(spending.end_batch()))
    spending.add("app", 7, TODAY, ledger.record("app", 7))
    assert spending.of("app", NOON).today == 12
    ledger.write(1)
    spending.take(ledger.snapshot(spending.end_batch()))
    assert spending.of("app", NOON).today == 7


def test_a_database_that_is_away_for_long_lets_nothing_grow_and_nothing_be_forgotten() -> None:
    spending, ledger = Spending(), Ledger()
    spending.of("app", NOON)
    for _ in range(100):
        spending.add("app", 1, TODAY, ledger.record("app", 1))
        assert len(spending.end_batch()) <= 8
    assert spending.of("app", NOON).today == 100
    ledger.write(100)
    spending.take(ledger.snapshot(spending.end_batch()))
    assert spending.of("app", NOON).today == 100


def test_a_new_day_begins_with_nothing_spent_and_its_month_goes_on() -> None:
    spending, ledger = Spending(), Ledger()
    ledger.record("app", 100)
    ledger.write(1)
    spending.take(ledger.snapshot([]))
    spending.add("app", 5, TODAY, uuid4())
    assert spending.of("app", NOON) == Spent(105, 105)
    assert spending.of("app", NOON + DAY_S) == Spent(0, 105)
    assert spending.of("app", NOON + 10 * DAY_S) == Spent(0, 0)  # the first of December


def test_a_call_that_ends_after_midnight_costs_the_day_it_began() -> None:
    spending = Spending()
    spending.of("app", NOON + DAY_S)
    spending.add("app", 5, TODAY, uuid4())
    assert spending.of("app", NOON + DAY_S) == Spent(0, 5)


@pytest.mark.parametrize("day", ["1970-01-01", "2026-02-28", "2028-02-29", "2026-12-31"])
def test_days_are_utc_days_and_months_begin_on_their_first(day: str) -> None:
    moment = (date.fromisoformat(day) - date(1970, 1, 1)).days * DAY_S
    assert as_date(day_of(moment)) == as_date(day_of(moment + DAY_S - 0.001)) == date.fromisoformat(day)
    assert as_date(month_of(day_of(moment))) == date.fromisoformat(day).replace(day=1)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("settle"), st.integers(1, 100)),
        st.tuples(st.just("write"), st.integers(1, 5)),
        st.tuples(st.just("refresh"), st.just(0)),
        st.tuples(st.just("away"), st.just(0)),
    ),
    max_size=80,
)


@given(steps)
def test_own_spending_is_never_undercounted_and_is_exact_once_all_is_written(
    steps: list[tuple[str, int]],
) -> None:
    spending, ledger = Spending(), Ledger()
    spending.of("app", NOON)
    for step, amount in steps:
        if step == "settle":
            spending.add("app", amount, TODAY, ledger.record("app", amount))
        elif step == "write":
            ledger.write(amount)
        elif step == "refresh":
            spending.take(ledger.snapshot(spending.end_batch()))
        else:
            spending.end_batch()
        assert spending.of("app", NOON).today >= sum(row[2] for row in ledger.recorded)
    ledger.write(len(ledger.recorded))
    spending.take(ledger.snapshot(spending.end_batch()))
    assert spending.of("app", NOON).today == sum(row[2] for row in ledger.recorded)
