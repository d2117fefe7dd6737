"""Values at the edge of what histograms and the text model are made for."""

from __future__ import annotations

from router.histogram import bucket, count, midpoint, quantile
from router.inference import written


def test_a_share_that_rounding_takes_over_one_is_the_largest_value() -> None:
    assert quantile(count([1.0, 2.0]), 1.0 + 1e-9) == midpoint(bucket(2.0))


def test_a_feature_that_says_nothing_is_not_written() -> None:
    model = written(("support", "general"), [0.0, 0.0], 0.5, {"refund": [2.0, -2.0], "the": [1e-6, 0.0]})
    assert "\nrefund\t" in model
    assert "\nthe" not in model
