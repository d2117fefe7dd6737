"""Cuts of merged buckets: quantiles by group, shares over time, distributions. Pure: frames in, frames out."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from dashboard.quantiles import QUANTILES, bucket_value_s, quantiles

METRICS = {"ttft_s": "TTFT", "tpot_s": "Time per token", "total_s": "Completion"}
_COARSE = 8  # buckets of 2 % merged for a picture: steps of 17 %


def table(buckets: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """One row a group, busiest first: `by`, then for each metric its n, p50, p95 and p99 in seconds.

    Columns are named ttft_n, ttft_p50_s, …; a metric without samples has n 0 and no quantiles.
    """
    parts = [
        quantiles(buckets, metric, by).rename(columns=lambda name, metric=metric: column(metric, name))
        for metric in METRICS
    ]
    joined = pd.concat(parts, axis=1)
    counts = [column(metric, "n") for metric in METRICS]
    joined[counts] = joined[counts].fillna(0).astype(int)
    busiest = joined[counts].max(axis=1).sort_values(ascending=False, kind="stable").index
    return joined.loc[busiest].reset_index()


def column(metric: str, figure: str) -> str:
    """The column of a figure: `n` or a quantile's name."""
    name = metric.removesuffix("_s")
    return f"{name}_n" if figure == "n" else f"{name}_{figure}_s"


def over_time(buckets: pd.DataFrame) -> pd.DataFrame:
    """Indexed by at: n and the quantiles. `buckets` has at, k, n, of one metric."""
    return quantiles(buckets.assign(metric="it"), "it", ["at"])


def heat(buckets: pd.DataFrame, times: pd.DatetimeIndex) -> tuple[list[float], pd.DataFrame]:
    """(edges in seconds, counts): one row of counts a latency between two edges, one column a time."""
    bands = buckets.assign(band=(buckets["k"] - 1) // _COARSE)
    counts = bands.pivot_table(index="band", columns="at", values="n", aggfunc="sum", fill_value=0)
    lowest, highest = int(counts.index.min()), int(counts.index.max())
    whole = counts.reindex(range(lowest, highest + 1), fill_value=0).reindex(columns=times, fill_value=0)
    return [_edge_s(band) for band in range(lowest, highest + 2)], whole


def distribution(buckets: pd.DataFrame) -> pd.DataFrame:
    """Columns target, seconds (the middle of a band), percent of the target's samples, n."""
    bands = buckets.assign(band=(buckets["k"] - 1) // _COARSE)
    grouped = bands.groupby(["target", "band"])["n"].sum().unstack("band", fill_value=0)
    every = range(int(bands["band"].min()) - 1, int(bands["band"].max()) + 2)  # ends at 0 on both sides
    counts = grouped.reindex(columns=every, fill_value=0).stack().rename("n").reset_index()
    counts.columns = pd.Index(["target", "band", "n"])
    counts["percent"] = 100 * counts["n"] / counts.groupby("target")["n"].transform("sum")
    counts["seconds"] = [bucket_value_s(band * _COARSE + (_COARSE + 1) // 2) for band in counts["band"]]
    return counts[["target", "seconds", "percent", "n"]]


def _edge_s(band: int) -> float:
    """The lower edge of a band, which is the upper one of the bucket below it."""
    return float(1.02 ** (band * _COARSE))


NAMES = tuple(QUANTILES)
