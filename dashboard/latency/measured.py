"""Samples of latency that single calls give, for cuts that the histograms know nothing of.

In: calls, as `rows.sample` has them. Out: buckets. What counts as a sample of a metric is what the ledger counts in its
histograms: the first token and the time per token of streams, the whole of successes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from dashboard.quantiles import GAMMA

SIZES = ("≤ 256", "≤ 1,024", "≤ 4,096", "≤ 16,384", "> 16,384")  # input tokens
_LIMITS = (256, 1024, 4096, 16_384)


def by_input_size(calls: pd.DataFrame) -> pd.DataFrame:
    """Columns target, shape, size (index into `SIZES`), metric, k, n; calls of unknown input size left out."""
    known = calls.dropna(subset=["target", "input_tokens"])
    sizes = np.searchsorted(_LIMITS, known["input_tokens"].astype(float))
    return buckets(
        known.assign(size=sizes, shape=known["shape"].fillna("general")), ["target", "shape", "size"]
    )


def buckets(calls: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Columns `by`, metric, k, n."""
    seconds = (
        calls[[*by]].assign(**_seconds(calls)).melt([*by], ["ttft_s", "tpot_s", "total_s"], "metric", "s")
    )
    seconds = seconds[seconds["s"] > 0]
    k = np.ceil(np.log(seconds["s"].astype(float)) / math.log(GAMMA) - 1e-9).astype(int)
    return seconds.assign(k=k).groupby([*by, "metric", "k"]).size().rename("n").reset_index()


def _seconds(calls: pd.DataFrame) -> dict[str, pd.Series]:
    ttft_s, total_s, tokens = (calls[name].astype(float) for name in ("ttft_s", "total_s", "output_tokens"))
    is_stream = calls["stream"].astype(bool)
    is_good = (calls["status"] == 200) & calls["error_code"].isna()
    return {
        "ttft_s": ttft_s.where(is_stream),
        "tpot_s": ((total_s - ttft_s) / (tokens - 1)).where(is_stream & (tokens >= 2)),
        "total_s": total_s.where(is_good),
    }
