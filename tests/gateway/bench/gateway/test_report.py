"""Medians, what is added, ratios and remarks, from readings whose figures are known."""

from __future__ import annotations

import pytest

from gateway.bench.gateway.readings import (
    BARE,
    LITELLM,
    OURS,
    STRAIGHT,
    STREAMS_PACED,
    TWO_WORKERS,
    WHOLE,
    WHOLE_PACED,
    Cell,
    Load,
    Reading,
    Sustained,
)
from gateway.bench.gateway.report import figures, parts, ratios, remarks


def reading(
    name: str,
    cell: Cell = WHOLE,
    each: int = 0,
    *,
    calls: int = 100,
    errors: int = 0,
    took_s: float = 1.0,
    ms: float = 1.0,
    **cpu_us: float,
) -> Reading:
    times = {"p50": ms, "p90": 2 * ms, "p99": 3 * ms, "max": 4 * ms}
    error = "HTTP 500: no" if errors else None
    load = Load(calls, errors, error, took_s, times, times if cell.chunks else None)
    return Reading(name, cell.name, each, load, cpu_us, dict.fromkeys(cpu_us, 10.0))


def test_figures_are_medians_over_the_rounds_in_the_order_of_the_start() -> None:
    readings = [
        reading(OURS, each=each, calls=calls, worker=calls) for each, calls in enumerate((80, 200, 100))
    ]
    found = figures([*readings, reading(STRAIGHT)], {STRAIGHT: None, OURS: 0.5, BARE: 0.1})
    assert [each.contestant for each in found] == [STRAIGHT, OURS]
    assert (found[1].calls_per_s, found[1].cpu_us_per_call, found[1].start_s) == (100, 100, 0.5)
    assert (found[1].streams_per_s, found[1].added_ms_p50) == (None, None)
    assert (found[0].cpu_us_per_call, found[0].rss_mb) == (None, None)


def test_what_is_added_is_told_against_the_same_round() -> None:
    """Calls straight to the upstream are ten times as slow in the second round, which must not matter."""
    straight_ms = (1.0, 10.0, 1.0)
    readings = [
        reading(name, cell, each, ms=ms + more)
        for each, ms in enumerate(straight_ms)
        for name, more in ((STRAIGHT, 0.0), (BARE, 0.5))
        for cell in (WHOLE_PACED, STREAMS_PACED)
    ]
    straight, bare = figures(readings, {STRAIGHT: None, BARE: 0.1})
    assert (bare.added_ms_p50, bare.added_ttft_ms_p50) == (0.5, 0.5)
    assert bare.added_ms_p99 == pytest.approx(1.5)
    assert straight.added_ms_p50 is None


def test_a_round_with_failures_counts_for_nothing_and_is_told() -> None:
    readings = [reading(BARE, calls=50), reading(BARE, each=1, calls=900, errors=3)]
    assert figures(readings, {BARE: 0.1})[0].calls_per_s == 50
    (remark,) = remarks(readings)
    assert remark.startswith("bare, whole answers: 3 calls failed")
    assert remark.endswith("HTTP 500: no")


def test_waits_that_only_grow_give_no_figure() -> None:
    assert WHOLE_PACED.rate is not None
    due = 3 * WHOLE_PACED.rate
    straight = reading(STRAIGHT, WHOLE_PACED, calls=due, took_s=3.0)
    for took_s, added in ((3.7, 4.0), (3.9, None)):
        slow = reading(LITELLM, WHOLE_PACED, calls=due, took_s=took_s, ms=5.0)
        (found,) = figures([straight, slow], {LITELLM: 6.0})
        assert found.added_ms_p50 == added
        assert any("more calls were due" in it for it in remarks([slow])) == (added is None)


def test_ratios_are_taken_within_rounds() -> None:
    readings = [
        reading(name, each=each, calls=calls * speed, worker=cpu_us / speed)
        for each, speed in enumerate((1, 10, 3))
        for name, calls, cpu_us in ((OURS, 50, 300.0), (BARE, 100, 100.0), (TWO_WORKERS, 50, 330.0))
    ]
    found = ratios(readings)
    assert [(it.figure, it.above, it.below) for it in found] == [
        ("calls_per_s", OURS, BARE),
        ("cpu_us_per_call", OURS, BARE),
        ("cpu_us_per_call", TWO_WORKERS, OURS),
    ]
    assert [it.times for it in found] == pytest.approx([0.5, 3.0, 1.1])


def test_ours_is_told_by_part() -> None:
    readings = [reading(OURS, worker=300, drain=40, postgres=80), reading(BARE, worker=100)]
    assert [(part.name, part.cpu_us_per_call, part.rss_mb) for part in parts(readings)] == [
        ("worker", 300, 10),
        ("drain", 40, 10),
        ("postgres", 80, None),
    ]
    assert figures(readings, {OURS: 0.5})[0].rss_mb == 20


def test_what_is_drained_is_what_does_not_stay() -> None:
    assert Sustained(1000.0, backlog_middle=500, backlog_end=500, seconds=5.0).drained_per_s == 1000
    assert Sustained(1000.0, backlog_middle=500, backlog_end=1500, seconds=5.0).drained_per_s == 800
