"""The SQL of the routing page: why targets were chosen, why others were passed over, how attempts ended."""

from __future__ import annotations

from datetime import datetime

import pandas as pd
from sqlalchemy import Engine

from dashboard.database import read
from dashboard.queries import AT, NO_SHAPE, OF_SHAPE, total

NO_TARGET = "(none)"

_WHY = f"""
SELECT coalesce(nullif(shape, ''), '{NO_SHAPE}') AS shape, coalesce(nullif(chosen, ''), '{NO_TARGET}') AS chosen, why,
       {total("calls")}, CAST(coalesce(sum(calls) FILTER (WHERE moved), 0) AS bigint) AS moved
FROM choice_sums WHERE at >= :start AND {OF_SHAPE}
GROUP BY 1, 2, 3 ORDER BY 1, 4 DESC
"""


def why(engine: Engine, start: datetime, shape: str | None) -> pd.DataFrame:
    """Columns shape, chosen (the first choice), why, calls, moved: answered by another target."""
    return read(engine, _WHY, start=start, shape=shape)


_REJECTIONS = f"""
SELECT {AT}, target, kind, {total("calls")}, max(example) AS example
FROM rejection_sums WHERE at >= :start AND {OF_SHAPE}
GROUP BY 1, 2, 3
"""


def rejections(engine: Engine, start: datetime, bucket_s: int, shape: str | None) -> pd.DataFrame:
    """Columns at, target, kind, calls, example: how often each target was passed over, and in what words."""
    return read(engine, _REJECTIONS, start=start, bucket_s=bucket_s, shape=shape)


_DECISIONS = f"""
SELECT {AT}, {total("calls")} FROM choice_sums WHERE at >= :start AND why <> 'refused' AND {OF_SHAPE} GROUP BY 1
"""


def decisions(engine: Engine, start: datetime, bucket_s: int, shape: str | None) -> pd.DataFrame:
    """Columns at, calls: how many decisions were made when."""
    return read(engine, _DECISIONS, start=start, bucket_s=bucket_s, shape=shape)


_ENDS = f"""
SELECT {AT}, target, result, is_further, {total("attempts")}, CAST(sum(cost_usd) AS float8) AS cost_usd
FROM attempt_sums WHERE at >= :start AND role <> 'shadow' AND {OF_SHAPE}
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
