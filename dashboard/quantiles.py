"""Quantiles of latency from merged histogram buckets.

The ledger keeps, besides every exchange, sparse histograms: bucket k covers (γ^(k-1), γ^k] seconds, γ = 1.02.
Buckets of any minutes, workers and targets merge by adding counts, so a percentile over a million calls is
read from some hundred numbers instead of a million rows, and any bucket is represented by 2·γ^k/(1+γ), which
is at most 1 % away from every value in it. Quantiles are by nearest rank. Knows nothing of SQL.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

GAMMA = 1.02
FEW_SAMPLES = 20  # a p95 of fewer is the slowest or second slowest call, no more
FEW_FOR_P99 = 100
NEEDED = {"p50": 1, "p95": FEW_SAMPLES, "p99": FEW_FOR_P99}
QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


def bucket_value_s(k: int) -> float:
    """The value that stands for bucket k; the harmonic mean of its edges halves the worst relative error."""
    return 2 * GAMMA**k / (1 + GAMMA)


def quantiles(buckets: pd.DataFrame, metric: str, by: Sequence[str]) -> pd.DataFrame:
    """Columns n, p50, p95, p99 (seconds), indexed by the columns `by`.

    `buckets` has the columns metric, k, n and those in `by`. A group without samples has no row.
    """
    keys = list(by)
    rows = buckets[buckets["metric"] == metric].groupby([*keys, "k"], as_index=False)["n"].sum()
    if rows.empty:
        return pd.DataFrame(columns=[*keys, "n", *QUANTILES], dtype=float).set_index(keys)
    groups = rows.groupby(keys)["n"]
    seen, total = groups.cumsum(), groups.transform("sum")
    table = pd.DataFrame({"n": groups.sum()})
    for name, q in QUANTILES.items():
        reached = rows[seen >= (total * q - 1e-9).map(math.ceil).clip(lower=1)]
        table[name] = reached.groupby(keys)["k"].min().map(bucket_value_s)
    return table


def of_arrays(ks: Iterable[ArrayLike], ns: Iterable[ArrayLike]) -> pd.DataFrame:
    """Columns n, p50, p95, p99 (seconds): one row for each histogram, its buckets in rising order."""
    table = []
    for k, n in zip(ks, ns, strict=True):
        seen = np.cumsum(n)
        ranks = [max(1, math.ceil(q * seen[-1] - 1e-9)) for q in QUANTILES.values()]
        table.append([seen[-1], *(bucket_value_s(it) for it in np.asarray(k)[np.searchsorted(seen, ranks)])])
    return pd.DataFrame(table, columns=["n", *QUANTILES])


def overall(buckets: pd.DataFrame, metric: str) -> tuple[int, float | None, float | None, float | None]:
    """(samples, p50, p95, p99) over everything in `buckets`; None without samples."""
    rows = buckets[buckets["metric"] == metric]
    if rows.empty:
        return 0, None, None, None
    k, place = np.unique(rows["k"].to_numpy(int), return_inverse=True)
    n = np.bincount(place, weights=rows["n"].to_numpy(float)).astype(int)
    row = of_arrays([k], [n]).iloc[0]
    return int(row["n"]), float(row["p50"]), float(row["p95"]), float(row["p99"])
