from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.bench.samples import Percentiles, Sample, nearest_rank, reports, with_costs


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=300), st.sampled_from([0.5, 0.95, 0.99]))
def test_nearest_rank_is_the_smallest_value_that_enough_others_do_not_exceed(
    values: list[float], share: float
) -> None:
    ordered = sorted(values)
    found = nearest_rank(ordered, share)
    assert found == pytest.approx(np.percentile(ordered, 100 * share, method="inverted_cdf"))
    assert found in ordered


def test_whole_ranks_are_not_pushed_up_by_rounding() -> None:
    values = [float(number) for number in range(1, 101)]
    assert Percentiles.of(values) == Percentiles(100, 50.0, 95.0, 99.0)
    assert Percentiles.of(values[:20]).p95 == 19.0


@pytest.mark.parametrize(
    ("count", "few"),
    [(0, ("p50", "p95", "p99")), (1, ("p95", "p99")), (19, ("p95", "p99")), (20, ("p99",)), (100, ())],
)
def test_percentiles_of_too_few_samples_are_marked(count: int, few: tuple[str, ...]) -> None:
    assert Percentiles.of([1.0] * count).too_few_for == few


def test_failed_calls_count_as_errors_and_in_no_percentile() -> None:
    good = [Sample("auto", run, total_s=2.0, ttft_s=1.0, output_tokens=11, target="a") for run in range(3)]
    bad = [Sample("auto", 3, total_s=99.0, ttft_s=98.0, error_code="upstream_timeout", target="b")]
    report = reports(good + bad, ["auto"])[0]
    assert (report.calls, report.error_rate, report.errors) == (4, 0.25, {"upstream_timeout": 1})
    assert report.total_s.p99 == 2.0
    assert report.tokens_per_s.p50 == 10.0
    assert report.targets == {"a": 3, "b": 1}


def test_speed_needs_two_tokens_and_a_first_one() -> None:
    samples = [
        Sample("m", 0, total_s=2.0, ttft_s=1.0, output_tokens=1),
        Sample("m", 1, total_s=2.0, output_tokens=9),
        Sample("m", 2, total_s=1.0, ttft_s=1.0, output_tokens=9),
    ]
    assert [sample.tokens_per_s for sample in samples] == [None, None, None]
    assert reports(samples, ["m"])[0].tokens_per_s == Percentiles(0, too_few_for=("p50", "p95", "p99"))


def test_unknown_costs_are_counted_and_not_taken_for_zero() -> None:
    samples = [Sample("m", run, total_s=1.0, request_id=f"r{run}") for run in range(3)]
    report = reports(with_costs(samples, {"r1": 0.25}), ["m"])[0]
    assert (report.cost_usd, report.unpriced) == (0.25, 2)
    assert reports(samples, ["m"])[0].cost_usd is None


def test_models_keep_their_order_and_those_never_called_are_left_out() -> None:
    samples = [Sample("b", 0, total_s=1.0), Sample("a", 0, total_s=1.0)]
    assert [report.model for report in reports(samples, ["a", "never", "b"])] == ["a", "b"]
