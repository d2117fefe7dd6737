"""The SQL of the routing page.

Why a target was chosen stands in each exchange's `decision`, which is read from a bounded sample (see `sample`);
how attempts ended is counted over all of them.
"""

from __future__ import annotations

from datetime import datetime

import pandas as pd
from sqlalchemy import Engine

from dashboard.database import read
from dashboard.sample import CTE, Sample

NO_TARGET = "(none)"

_WHY = f"""
WITH {CTE}, read AS (
    SELECT coalesce(shape, '(no shape)') AS shape, target, decision,
           CASE WHEN jsonb_typeof(decision -> 'candidates') = 'array' THEN decision -> 'candidates'
                ELSE '[]' END AS tried
    FROM sampled
)
SELECT shape, coalesce(tried -> 0 ->> 'target', '{NO_TARGET}') AS chosen,
       CASE
           WHEN decision IS NULL THEN 'refused before routing'
           WHEN jsonb_array_length(tried) = 0 THEN 'no target could serve'
           WHEN decision ->> 'explored' = 'true' THEN 'explored'
           WHEN starts_with(decision ->> 'reason', 'the model name pins') THEN 'named by the caller'
           WHEN tried -> 0 ->> 'role' = 'fallback' THEN 'fallback: no candidate could serve'
           WHEN tried -> 1 IS NULL OR tried -> 1 ->> 'role' = 'fallback' THEN 'only candidate that could serve'
           WHEN tried #>> '{{0,slo_misses}}' = '[]' AND tried #>> '{{1,slo_misses}}' <> '[]'
               THEN 'meets the SLO, the next would not'
           ELSE 'best score'
       END AS why,
       count(*) AS calls,
       count(*) FILTER (WHERE target IS DISTINCT FROM tried -> 0 ->> 'target') AS moved
FROM read GROUP BY 1, 2, 3 ORDER BY 1, 4 DESC
"""


def why(engine: Engine, sample: Sample) -> pd.DataFrame:
    """Columns shape, chosen (the first choice), why, calls, moved: answered by another target."""
    return read(engine, _WHY, **sample.parameters)


# Figures in a reason differ from call to call; its kind is the text without them.
_REJECTIONS = f"""
WITH {CTE}
SELECT date_bin(make_interval(secs => :bucket_s), started_at, 'epoch') AS at,
       passed ->> 'target' AS target,
       regexp_replace(passed ->> 'reason', '[0-9]+([.][0-9]+)?', '…', 'g') AS kind,
       count(*) AS calls, max(passed ->> 'reason') AS example
FROM sampled, jsonb_array_elements(
    CASE WHEN jsonb_typeof(decision -> 'rejections') = 'array' THEN decision -> 'rejections' ELSE '[]' END
) AS passed
GROUP BY 1, 2, 3
"""


def rejections(engine: Engine, sample: Sample, bucket_s: int) -> pd.DataFrame:
    """Columns at, target, kind, calls, example: how often each target was passed over, and in what words."""
    return read(engine, _REJECTIONS, bucket_s=bucket_s, **sample.parameters)


_DECISIONS = f"""
WITH {CTE}
SELECT date_bin(make_interval(secs => :bucket_s), started_at, 'epoch') AS at, count(*) AS calls
FROM sampled WHERE decision IS NOT NULL GROUP BY 1
"""


def decisions(engine: Engine, sample: Sample, bucket_s: int) -> pd.DataFrame:
    """Columns at, calls: how many decisions of the sample were made when."""
    return read(engine, _DECISIONS, bucket_s=bucket_s, **sample.parameters)


_ENDS = """
SELECT date_bin(make_interval(secs => :bucket_s), started_at, 'epoch') AS at, target, result,
       ordinal > 0 AS is_further, count(*) AS attempts, CAST(sum(cost_usd) AS float8) AS cost_usd
FROM attempts AS a
WHERE id >= uuid_floor(:start) AND started_at >= :start AND role IS NULL
  AND (CAST(:shape AS text) IS NULL OR EXISTS (
      SELECT FROM exchanges AS e
      WHERE e.id = a.exchange_id AND e.shape = :shape AND e.id >= uuid_floor(:start)))
GROUP BY 1, 2, 3, 4
"""


def ends(engine: Engine, start: datetime, bucket_s: int, shape: str | None) -> pd.DataFrame:
    """Columns at, target, result, is_further (not the first of its exchange), attempts, cost_usd (of known)."""
    return read(engine, _ENDS, start=start, bucket_s=bucket_s, shape=shape)


def policies_since(engine: Engine, start: datetime) -> pd.DataFrame:
    """Columns at, hash: versions that came into force, oldest first."""
    return read(
        engine,
        """SELECT published_at AS at, hash FROM policies
           WHERE published_at >= :start AND error IS NULL ORDER BY id""",
        start=start,
    )
