"""The SQL of the latency page: merged histograms over time, and a sample cut by the size of the input.

Times, tokens and whole answers come from `latency_histograms` whatever the span. These know no input size, so
that cut reads rows: a bounded sample of them (see `sample`), put into the same buckets.
"""

from __future__ import annotations

import math
from datetime import datetime

import pandas as pd
from sqlalchemy import Engine

from dashboard.database import read
from dashboard.quantiles import GAMMA
from dashboard.sample import CTE, Sample

SIZES = ("≤ 256", "≤ 1,024", "≤ 4,096", "≤ 16,384", "> 16,384")  # input tokens

_OVER_TIME = """
SELECT date_bin(make_interval(secs => :bucket_s), minute, 'epoch') AS at, target, shape, bucket.k,
       CAST(sum(bucket.n) AS bigint) AS n
FROM latency_histograms, unnest(k, n) AS bucket(k, n)
WHERE minute >= :start AND metric = :metric AND (CAST(:shape AS text) IS NULL OR shape = :shape)
GROUP BY 1, 2, 3, 4
"""


def over_time(
    engine: Engine, start: datetime, bucket_s: int, metric: str, shape: str | None = None
) -> pd.DataFrame:
    """Columns at, target, shape, k, n, metric: merged buckets of one metric."""
    return read(engine, _OVER_TIME, start=start, bucket_s=bucket_s, metric=metric, shape=shape).assign(
        metric=metric
    )


_TOTALS = """
SELECT target, shape, metric, bucket.k, CAST(sum(bucket.n) AS bigint) AS n
FROM latency_histograms, unnest(k, n) AS bucket(k, n)
WHERE minute >= :start AND (CAST(:shape AS text) IS NULL OR shape = :shape)
GROUP BY 1, 2, 3, 4
"""


def totals(engine: Engine, start: datetime, shape: str | None = None) -> pd.DataFrame:
    """Columns target, shape, metric, k, n: everything measured since `start`."""
    return read(engine, _TOTALS, start=start, shape=shape)


# What counts as a sample of a metric is what the ledger counts in its histograms.
_BY_SIZE = f"""
WITH {CTE}, measured AS (
    SELECT target, coalesce(shape, 'general') AS shape,
           CAST(width_bucket(input_tokens, CAST(:limits AS int[])) AS int) AS size,
           CASE WHEN stream THEN ttft_s END AS ttft_s,
           CASE WHEN stream AND output_tokens >= 2 AND total_s > ttft_s
                THEN (total_s - ttft_s) / (output_tokens - 1) END AS tpot_s,
           CASE WHEN status = 200 AND error_code IS NULL THEN total_s END AS total_s
    FROM sampled WHERE target IS NOT NULL AND input_tokens IS NOT NULL
)
SELECT target, shape, size, metric, CAST(ceil(ln(seconds) / {math.log(GAMMA)!r} - 1e-9) AS int) AS k,
       count(*) AS n
FROM measured, LATERAL (VALUES ('ttft_s', ttft_s), ('tpot_s', tpot_s), ('total_s', total_s))
     AS each(metric, seconds)
WHERE seconds > 0
GROUP BY 1, 2, 3, 4, 5
"""


def by_input_size(engine: Engine, sample: Sample) -> pd.DataFrame:
    """Columns target, shape, size (index into `SIZES`), metric, k, n; calls of unknown input size left out."""
    limits = [257, 1025, 4097, 16_385]
    return read(engine, _BY_SIZE, limits=limits, **sample.parameters)
