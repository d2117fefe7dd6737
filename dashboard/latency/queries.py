"""The SQL of the latency page: merged histograms over time."""

from __future__ import annotations

from datetime import datetime

import pandas as pd
from sqlalchemy import Engine

from dashboard.database import read
from dashboard.queries import OF_SHAPE

_OVER_TIME = f"""
SELECT at, k, sum(n) AS n
FROM (
    SELECT date_bin(make_interval(secs => :bucket_s), minute, 'epoch') AS at, unnest(k) AS k, unnest(n) AS n
    FROM latency_histograms
    WHERE minute >= :start AND metric = :metric AND {OF_SHAPE}
      AND (CAST(:target AS text) IS NULL OR target = :target)
) AS cells
GROUP BY 1, 2
"""


def over_time(
    engine: Engine,
    start: datetime,
    bucket_s: int,
    metric: str,
    shape: str | None = None,
    target: str | None = None,
) -> pd.DataFrame:
    """Columns at, k, n: merged buckets of one metric, of one shape and target or all of them."""
    asked = {"start": start, "bucket_s": bucket_s, "metric": metric, "shape": shape, "target": target}
    return read(engine, _OVER_TIME, **asked)
