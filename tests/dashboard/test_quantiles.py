from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dashboard.quantiles import GAMMA, bucket_value_s, overall, quantiles
from router import histogram


def buckets_of(values_s: np.ndarray, **columns: str) -> pd.DataFrame:
    counts = histogram.count(values_s.tolist())
    return pd.DataFrame({"metric": "ttft_s", "k": list(counts), "n": list(counts.values()), **columns})


def test_buckets_are_those_the_router_and_the_ledger_use() -> None:
    assert GAMMA == histogram.GAMMA
    assert [bucket_value_s(k) for k in range(-200, 200)] == pytest.approx(
        [histogram.midpoint(k) for k in range(-200, 200)]
    )


@pytest.mark.parametrize("size", [1, 2, 19, 20, 21, 999, 20_000])
def test_percentiles_equal_numpys_nearest_rank_to_one_percent(size: int) -> None:
    values = np.random.default_rng(size).lognormal(-0.5, 1.1, size)
    n, p50, p95, p99 = overall(buckets_of(values), "ttft_s")
    assert n == size
    assert p50 == pytest.approx(np.percentile(values, 50, method="inverted_cdf"), rel=0.01)
    assert p95 == pytest.approx(np.percentile(values, 95, method="inverted_cdf"), rel=0.01)
    assert p99 == pytest.approx(np.percentile(values, 99, method="inverted_cdf"), rel=0.01)


def test_buckets_of_many_minutes_merge_by_addition() -> None:
    values = np.random.default_rng(3).lognormal(0, 1, 5000)
    minutes = pd.concat([buckets_of(part) for part in np.array_split(values, 40)])
    assert overall(minutes, "ttft_s") == overall(buckets_of(values), "ttft_s")


def test_groups_are_kept_apart() -> None:
    fast, slow = np.full(30, 0.1), np.full(25, 2.0)
    frame = pd.concat([buckets_of(fast, target="a"), buckets_of(slow, target="b")])
    table = quantiles(frame, "ttft_s", ["target"])
    assert table.loc["a", "p95"] == pytest.approx(0.1, rel=0.01)
    assert table.loc["b", "p50"] == pytest.approx(2.0, rel=0.01)
    assert table["n"].to_dict() == {"a": 30, "b": 25}


def test_no_samples_give_no_percentile() -> None:
    assert overall(buckets_of(np.array([1.0])), "total_s") == (0, None, None, None)
