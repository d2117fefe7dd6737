"""Quantiles from buckets are right to 1 %, merging loses nothing, and decay halves each half-life."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.histogram import (
    GAMMA,
    LARGEST_S,
    SMALLEST_S,
    DecayedHistogram,
    bucket,
    count,
    merge,
    midpoint,
    quantile,
    upper,
)

seconds = st.floats(SMALLEST_S, LARGEST_S)
samples = st.lists(seconds, min_size=1, max_size=200)


@given(seconds)
def test_a_bucket_covers_its_half_open_interval(value: float) -> None:
    k = bucket(value)
    assert upper(k - 1) < value <= upper(k)


@given(st.integers(-600, 600))
def test_an_upper_edge_belongs_to_its_own_bucket(k: int) -> None:
    assert bucket(upper(k)) == k
    assert bucket(math.nextafter(upper(k), math.inf)) == k + 1


@given(seconds)
def test_a_midpoint_is_within_one_percent(value: float) -> None:
    assert abs(midpoint(bucket(value)) - value) <= 0.01 * value


@pytest.mark.parametrize(("value", "counted_as"), [(0.0, SMALLEST_S), (-1.0, SMALLEST_S), (1e300, LARGEST_S)])
def test_values_out_of_range_count_at_its_ends(value: float, counted_as: float) -> None:
    assert bucket(value) == bucket(counted_as)
    assert -32_768 <= bucket(value) <= 32_767  # smallint


@given(samples, st.floats(0, 1))
def test_a_quantile_is_within_one_percent_of_the_nearest_rank(values: list[float], q: float) -> None:
    exact = sorted(values)[max(math.ceil(q * len(values) - 1e-9) - 1, 0)]
    found = quantile(count(values), q)
    assert found is not None
    assert abs(found - exact) <= 0.01 * exact * (1 + 1e-9)


@given(st.lists(st.lists(seconds, max_size=50), max_size=5))
def test_merging_equals_the_histogram_of_all_samples(parts: list[list[float]]) -> None:
    together = count(value for part in parts for value in part)
    assert merge(count(part) for part in parts) == dict(together)


def test_an_empty_histogram_has_no_quantile() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({3: 0.0}, 0.5) is None
    assert DecayedHistogram(60).quantile(0.5) is None
    assert DecayedHistogram(60).mean() is None
    assert DecayedHistogram(60).weight(0.0) == 0.0


@given(samples)
def test_without_time_passing_decay_changes_nothing(values: list[float]) -> None:
    histogram = DecayedHistogram(half_life_s=60)
    for value in values:
        histogram.add(value, now_s=1000.0)
    assert histogram.weight(1000.0) == pytest.approx(len(values))
    assert histogram.mean() == pytest.approx(math.fsum(values) / len(values))
    for q in (0.0, 0.5, 0.95, 1.0):
        assert histogram.quantile(q) == quantile(count(values), q)


@given(st.lists(st.tuples(seconds, st.floats(0, 600)), min_size=1, max_size=60), st.floats(1, 120))
def test_weights_are_those_of_the_definition(arrivals: list[tuple[float, float]], half_life_s: float) -> None:
    histogram, now = DecayedHistogram(half_life_s), 600.0
    for value, at in sorted(arrivals, key=lambda arrival: arrival[1]):
        histogram.add(value, at)
    weights = [(value, 2.0 ** ((at - now) / half_life_s)) for value, at in arrivals]
    total = math.fsum(weight for _, weight in weights)
    assert histogram.weight(now) == pytest.approx(total, rel=1e-6)
    assert histogram.mean() == pytest.approx(math.fsum(v * w for v, w in weights) / total, rel=1e-6)


def test_a_sample_weighs_half_after_a_half_life() -> None:
    histogram = DecayedHistogram(half_life_s=60)
    histogram.add(1.0, now_s=0.0, weight=4)
    assert histogram.weight(60.0) == pytest.approx(2)
    histogram.add(2.0, now_s=60.0, weight=2)
    assert histogram.mean() == pytest.approx(1.5)
    assert histogram.quantile(0.5) == midpoint(bucket(1.0))


def test_years_of_samples_neither_overflow_nor_pile_up() -> None:
    histogram = DecayedHistogram(half_life_s=1)
    for step in range(2000):
        histogram.add(GAMMA ** (step % 500), now_s=step * 100.0)
    assert histogram.weight(1999 * 100.0) == pytest.approx(1.0)
    assert len(histogram.counts) <= 2
    assert histogram.quantile(0.5) == midpoint(1999 % 500)


def test_a_cleared_histogram_knows_nothing() -> None:
    histogram = DecayedHistogram(half_life_s=1)
    histogram.add(1.0, now_s=5.0)
    histogram.clear()
    assert histogram.mean() is None
    histogram.add(3.0, now_s=1.0)  # a clock that went back is no trouble
    assert histogram.weight(1.0) == 1.0
