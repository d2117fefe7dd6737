"""Pools: whatever workers report in whatever order, they never hold more together than is left of a limit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.callers.pools import SLICE_S, Pool, Report, Slice, Workers
from gateway.callers.share import Places

NAMES = ("a", "b", "c")
THREE = Workers(NAMES)
PER_S = 1.0
NOON = 1_795_262_400.0


def full(size: float = 60.0) -> Pool:
    return Pool(size, NOON, NOON, 0.0, {})


def asks(
    pool: Pool, worker: str, wanted: float, used: float = 0.0, now: float = NOON, **more: float
) -> tuple[Pool, float]:
    report = Report(used, more.get("held", 0.0), wanted, more.get("unit", 1.0))
    return pool.shared(60.0, PER_S, worker, report, THREE, now)


def test_a_worker_gets_what_it_wants_and_a_fair_part_of_the_rest() -> None:
    pool, amount = asks(full(), "a", 30.0)
    assert amount == 40.0
    pool, amount = asks(pool, "b", 0.0)
    assert amount == 6.0
    assert pool.free(NOON) == 14.0


def test_while_somebody_is_short_nobody_gets_more_than_it_wants() -> None:
    pool, _ = asks(full(), "a", 0.0)
    pool, amount = asks(pool, "b", 50.0)
    assert amount == 40.0
    pool, amount = asks(pool, "a", 5.0)
    assert amount == 5.0
    _, amount = asks(pool, "b", 50.0)
    assert amount == 50.0


def test_what_was_used_is_gone_and_comes_back_with_time() -> None:
    pool, _ = asks(full(), "a", 60.0)
    pool, amount = asks(pool, "a", 60.0, used=60.0)
    assert (pool.level, amount) == (0.0, 0.0)
    pool, amount = asks(pool, "a", 60.0, now=NOON + 2.5)
    assert (pool.level, amount) == (2.5, 2.0)  # a part of a call is no use to anyone


def test_a_pool_out_of_reach_has_not_filled_as_workers_filled_by_themselves() -> None:
    pool, _ = asks(full(), "a", 0.0, used=60.0)
    pool, _ = asks(pool, "a", 0.0, now=NOON + 30.0)
    assert pool.level == 3.0


def test_the_share_of_a_worker_that_is_cut_off_is_left_to_it() -> None:
    pool, _ = asks(full(), "a", 0.0, used=60.0)
    report = Report(0.0, 0.0, 0.0, 1.0)
    pool, _ = pool.shared(60.0, PER_S, "a", report, Workers(("a", "b"), absent=("c",)), NOON + 3.0)
    assert pool.level == 2.0


def test_a_worker_that_is_not_heard_keeps_its_slice_until_it_counts_as_dead() -> None:
    cut = Workers(("a", "c"), absent=("b",))
    report = Report(0.0, 0.0, 60.0, 1.0)
    pool, _ = asks(full(), "b", 30.0)
    pool, _ = pool.shared(60.0, PER_S, "a", report, cut, NOON + 30.0)
    assert pool.slices["b"].amount == 40.0
    pool, amount = pool.shared(60.0, PER_S, "a", report, Workers(("a", "c")), NOON + 60.0)
    assert amount == 60.0


def test_a_worker_that_is_not_known_yet_keeps_its_slice_for_a_while() -> None:
    pool, _ = asks(full(), "new", 30.0)
    assert asks(pool, "a", 60.0, now=NOON + SLICE_S - 0.1)[1] == 20.0
    assert asks(pool, "a", 60.0, now=NOON + SLICE_S + 0.1)[1] == 60.0


def test_who_opens_a_pool_leaves_the_others_their_shares_until_they_hear_of_it() -> None:
    pool = Pool.opened(60.0, "a", Workers(("a", "b"), absent=("c",)), NOON)
    assert pool.slices == {name: Slice(20.0, NOON + SLICE_S) for name in ("b", "c")}
    assert asks(pool, "a", 60.0)[1] == 20.0
    assert asks(pool.without("b"), "a", 60.0)[1] == 40.0


def test_what_others_leave_unused_does_not_fill_the_share_of_one_that_is_cut_off() -> None:
    pool, _ = asks(full(), "a", 0.0, used=60.0)
    for second in range(600):
        report = Report(0.0, 0.0, 0.0, 1.0)
        pool, _ = pool.shared(60.0, PER_S, "a", report, Workers(("a", "b"), absent=("c",)), NOON + second)
    assert pool.level == 40.0


def test_a_worker_that_is_cut_off_may_have_an_equal_share_of_places() -> None:
    report = Report(0.0, 0.0, 60.0, 1.0)
    _, amount = full().shared(60.0, 60.0, "a", report, Workers(("a", "b"), absent=("c",)), NOON, apart=20.0)
    assert amount == 40.0


def test_places_of_calls_that_run_are_kept_even_where_there_are_too_few() -> None:
    pool, _ = asks(full(), "a", 60.0)
    pool, amount = asks(pool, "b", 5.0, held=2.0)
    assert amount == 2.0


def test_calls_that_come_while_a_report_is_on_its_way_take_nobodys_place() -> None:
    places = Places(20, 2, NOON, lambda: None)
    for _ in range(3):
        assert places.has_room(1.0)
        places.give_back(-1.0)
    report = places.report(NOON + 0.1)
    taken = 3
    while places.has_room(1.0):
        places.give_back(-1.0)
        taken += 1
    assert 3 < taken <= report.held < 10
    places.take(report, report.held, 20.0, 20.0, NOON + 0.2)
    assert places.used <= report.held


def test_places_given_up_in_a_report_that_nobody_answered_are_had_again() -> None:
    places = Places(20, 2, NOON, lambda: None)
    places.report(NOON)
    assert not places.has_room(1.0)
    places.refill(NOON + 3.0)
    assert places.level == 10.0


moments = st.floats(0.0, 1.0, allow_nan=False)
steps = st.tuples(
    st.sampled_from(NAMES), st.floats(0.0, 1.0), st.floats(0.0, 100.0), st.integers(1, 20), moments
)


@given(st.lists(steps, max_size=60))
def test_together_never_more_than_one_bucket_would_grant(
    history: list[tuple[str, float, float, int, float]],
) -> None:
    """Each uses any part of its slice before its next report, or nothing once it has run out."""
    pool, now, used_in_all = full(), NOON, 0.0
    slices: dict[str, Slice] = {}
    for name, part, wanted, unit, later in history:
        now += later
        mine = slices.get(name)
        used = part * mine.amount if mine is not None and mine.until_s > now else 0.0
        used_in_all += used
        pool, amount = asks(pool, name, wanted, used, now, unit=float(unit))
        slices[name] = Slice(amount, now + SLICE_S)
        held = sum(one.amount for one in pool.slices.values() if one.until_s > now)
        assert held <= pool.level + 1e-6
        assert used_in_all + held <= 60.0 + (now - NOON) * PER_S + 1e-6
