"""Estimates of a replay against a truth that is known: no bias, and intervals that hold what they say."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import pytest

from gateway.control.replay_figures import (
    NOBODY,
    Played,
    Sample,
    effective,
    mean,
    quantile,
    rate,
    reports,
    wilson,
)
from router.policy import Timeouts

LIMITS = Timeouts()


def sample(target: str, at_s: float, total_s: float = 1.0, **given: object) -> Sample:
    plain = Sample(
        target=target,
        shape="support",
        stream=True,
        at_s=at_s,
        input_tokens=100,
        ttft_s=total_s / 5,
        total_s=total_s,
        is_over=True,
        is_failure=False,
        timed_out=None,
        cost_usd=0.001,
        timeouts=LIMITS,
    )
    return replace(plain, **given)  # type: ignore[arg-type]


def moved(own: Sample, target: str | None) -> Played:
    return Played(own, target, LIMITS)


FAST_SHARE = 0.3
TRUTH = {
    "completion_p50_s": 1.0,
    "completion_p95_s": math.exp(0.5 * 1.6449),
    "failure_rate": 0.05,
    "cost_usd": 0.95 * 0.002 * math.exp(0.125),
    "cost_per_completed_task_usd": 0.95 * 0.002 * math.exp(0.125) / 0.8,
}


def day(seed: int, calls: int) -> list[Played]:
    """Calls of two targets, all of which a new policy would send to the fast one."""
    chance, played = Random(seed), []
    for number in range(calls):
        is_fast = chance.random() < FAST_SHARE
        median_s, cost_usd, failing, completing = (
            (1.0, 0.002, 0.05, 0.8) if is_fast else (3.0, 0.001, 0.1, 0.4)
        )
        pace, fails = math.exp(0.5 * chance.gauss(0, 1)), chance.random() < failing
        own = sample(
            "fast" if is_fast else "slow",
            number * 2.0,
            0.1 if fails else median_s * pace,
            input_tokens=chance.randint(50, 1000),
            is_over=not fails,
            is_failure=fails,
            cost_usd=0.0 if fails else cost_usd * pace,
            is_completed=chance.random() < completing,
        )
        played.append(Played(own, "fast", LIMITS, ("app", f"t{number}")))
    return played


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    days = 150
    held = dict.fromkeys(TRUTH, 0)
    for seed in range(days):
        _, overall, _ = reports(day(seed, 400))
        for name, truth in TRUTH.items():
            found = getattr(overall.new, name)
            low, high = found.low or 0.0, math.inf if found.high is None else found.high
            held[name] += low <= truth <= high
    assert all(0.9 <= times / days <= 1.0 for times in held.values()), held
    assert held["cost_usd"] < days  # intervals that always hold say nothing


def test_an_outcome_that_stands_for_many_calls_counts_once() -> None:
    many = [moved(sample("slow", at_s), "fast") for at_s in range(500)]
    _, overall, _ = reports(
        [*many, moved(sample("fast", 1.0, 2.0), "fast"), moved(sample("fast", 400.0), "fast")]
    )
    assert overall.unknown == 0
    assert overall.new.completion_p95_s is not None
    assert overall.new.completion_p95_s.n < 2.0
    assert overall.new.completion_p95_s.high is None
    assert overall.old.completion_p95_s is not None
    assert overall.old.completion_p95_s.n == 502


def test_the_outcome_is_of_the_nearest_call_of_like_length() -> None:
    near_but_long = sample("fast", 10.0, 7.0, input_tokens=5000)
    far_but_alike = sample("fast", 5000.0, 2.0)
    call = moved(sample("slow", 11.0), "fast")
    others = [moved(near_but_long, "slow"), moved(far_but_alike, "slow")]
    _, overall, notes = reports([call, *others])
    moves = {(old, new): calls for old, new, calls in overall.moves}
    assert moves == {("slow", "fast"): 1, ("fast", "slow"): 2}
    assert (notes.far, notes.unlike) == (2, 1)
    _, alone, _ = reports([call, *(replace(each, target="other") for each in others)])
    assert alone.unknown == 2
    assert alone.new.completion_p50_s is not None
    assert alone.new.completion_p50_s.value == 2.0


def test_shadow_calls_stand_in_for_calls_that_would_move() -> None:
    calls = [moved(sample("slow", float(at_s), 3.0), "fast") for at_s in range(10)]
    shadows = [sample("fast", float(at_s), 1.0) for at_s in range(10)]
    _, overall, _ = reports(calls, shadows)
    assert (overall.calls, overall.moved, overall.unknown) == (10, 10, 0)
    assert overall.new.completion_p50_s is not None
    assert (overall.new.completion_p50_s.value, overall.new.completion_p50_s.n) == (1.0, 10.0)


def test_shapes_and_ways_to_answer_do_not_mix() -> None:
    call = moved(sample("slow", 1.0), "fast")
    other_shape = moved(sample("fast", 1.0, shape="reasoning"), "fast")
    whole = moved(sample("fast", 1.0, stream=False), "fast")
    by_shape, overall, _ = reports([call, other_shape, whole])
    assert [(each.shape, each.calls, each.unknown) for each in by_shape] == [
        ("support", 2, 1),
        ("reasoning", 1, 0),
    ]
    assert overall.unknown == 1


def test_calls_that_nobody_can_serve_are_unknown_unless_nobody_could_before() -> None:
    lost = moved(sample("slow", 1.0), None)
    as_before = moved(sample(NOBODY, 2.0, is_over=False, is_failure=True), None)
    _, overall, _ = reports([lost, as_before])
    assert (overall.unknown, overall.moved) == (1, 1)
    assert overall.new.failure_rate is not None
    assert overall.new.failure_rate.value == 1.0


def test_a_longer_deadline_leaves_what_was_cut_as_it_ended_and_says_so() -> None:
    cut = sample("slow", 1.0, 30.0, timed_out="total", is_failure=True, timeouts=Timeouts(total_s=30.0))
    _, overall, notes = reports([Played(cut, "slow", Timeouts(total_s=60.0))])
    assert (notes.freed_by_new, notes.cut_by_new) == (1, 0)
    assert overall.new.timeout_rate is not None
    assert overall.new.timeout_rate.value == 1.0


def test_bounds_are_none_where_too_few_samples_set_any() -> None:
    few = quantile([1.0, 2.0, 3.0], 0.95, 3)
    assert few is not None
    assert (few.value, few.high) == (3.0, None)
    assert quantile([], 0.5, 0) is None
    assert mean([], 1.0) is None
    single = mean([2.0], 1.0)
    assert single is not None
    assert (single.value, single.low, single.high) == (2.0, None, None)
    assert rate(0, 0, 0) is None
    none_of_ten = rate(0, 10, 10)
    assert none_of_ten is not None
    assert none_of_ten.low == 0.0
    assert none_of_ten.high == pytest.approx(0.2775, abs=1e-3)  # Wilson's interval of 0 in 10
    assert wilson(0.0, 0) == (0.0, 1.0)
    assert effective([]) == 0.0
