"""Figures of runs that are written by hand."""

from __future__ import annotations

import math

import pytest

from gateway.bench.routing.calls import Call
from gateway.bench.routing.measure import Left, back_s, fair_share, figures, left, warm_share
from gateway.bench.routing.scenarios import Incident, Kind
from gateway.bench.routing.simulate import Run
from gateway.bench.routing.world import Record, Sent
from tests.gateway.bench.routing.worlds import ONE, WELL, scenario

SLOW = Incident("a", "slow", 100.0, 160.0, 10.0)
WORLD = scenario(WELL, incidents=(SLOW,), total_s=50.0)
OTHER = Kind("short_chat", 0.5, 0, 1)


def record(
    at_s: float, took_s: float, *, kind: Kind = ONE, is_ok: bool = True, has_timed_out: bool = False
) -> Record:
    call = Call(0, at_s, kind, 1)
    return Record(call, at_s + took_s, is_ok, has_timed_out, 1, 0.001, None, "a" if is_ok else None)


def run(records: list[Record], sent: list[Sent] | None = None) -> Run:
    return Run(WORLD, "test", 1, records, sent or [])


def traffic(*spans: tuple[float, float, str]) -> list[Sent]:
    """One call a second; `spans` say from when to when to whom, in the order of time."""
    return [
        Sent(float(at), target, "general", 0, False) for b, e, target in spans for at in range(int(b), int(e))
    ]


def test_percentiles_are_nearest_rank_and_shapes_count_alike() -> None:
    some = [record(0.0, float(n)) for n in range(1, 101)]
    others = [record(0.0, 4.0, kind=OTHER) for _ in range(20)]
    found = figures(run([*some, *others]))
    assert found.completion_s["general"].p95 == 95.0
    assert found.p95_s == pytest.approx(math.sqrt(95.0 * 4.0))
    assert (found.window_p95_s, found.window_timeout_rate) == (None, None)


def test_a_call_that_failed_counts_as_the_last_deadline() -> None:
    found = figures(run([record(0.0, 1.0), record(0.0, 1.0, is_ok=False)]))
    assert (found.completion_s["general"].p99, found.failure_rate) == (50.0, 0.5)
    assert found.cost_per_completed_usd == pytest.approx(0.002)


def test_windows_hold_what_arrives_during_an_incident() -> None:
    records = [
        record(99.9, 1.0, has_timed_out=True),
        record(100.0, 2.0, has_timed_out=True),
        record(159.9, 3.0),
        record(160.0, 9.0),
    ]
    found = figures(run(records))
    assert found.window_p95_s == pytest.approx(3.0)
    assert (found.window_timeout_rate, found.timeout_rate) == (0.5, 0.5)


def test_a_target_is_left_when_nine_tenths_of_its_traffic_are_gone() -> None:
    sent = traffic((70, 108, "a"), (108, 200, "b"))
    assert left(run([], sent), SLOW) == Left(7.0, 8)


def test_a_target_left_at_once_had_no_call() -> None:
    assert left(run([], traffic((70, 100, "a"), (100, 200, "b"))), SLOW) == Left(0.0, 0)


def test_a_target_that_keeps_its_traffic_is_never_left() -> None:
    assert left(run([], traffic((70, 200, "a"))), SLOW) is None


def test_a_target_is_back_with_four_fifths_of_its_share() -> None:
    both = traffic((70, 100, "a"), (100, 180, "b"), (180, 300, "a"))
    found = run([], both)
    fair = fair_share(found, found, SLOW)
    assert fair == 1.0
    assert back_s(found, SLOW, fair) == pytest.approx(17.5)  # 8 of the 10 calls in [177.5, 187.5)


def test_fair_is_what_the_oracle_gives_where_nothing_was_before() -> None:
    oracle = run([], traffic((160, 230, "a"), (230, 300, "b")))
    assert fair_share(run([], traffic((0, 300, "b"))), oracle, SLOW) == 0.5
    assert back_s(run([], traffic((0, 300, "b"))), SLOW, 0.5) is None


def test_a_newcomers_share_is_of_the_first_calls_after_it_joined() -> None:
    sent = traffic((0, 50, "b"), (50, 100, "a"), (100, 290, "b"), (290, 300, "a"))
    assert warm_share(run([], sent), "a", 50.0) == pytest.approx(50 / 200)
