"""The SQL of the engine page: samples of an engine's `/state`, and the latencies of the minutes they fell into."""

from __future__ import annotations

from datetime import datetime

import pandas as pd
from sqlalchemy import Engine

from dashboard.database import read
from dashboard.queries import AT, total

CONCURRENCIES = ("1", "2-4", "5-8", "9-16", "17+")  # the engine's own bands of sequences
_LIMITS = [1.5, 4.5, 8.5, 16.5]


def sampled_engines(engine: Engine, start: datetime) -> list[str]:
    """Targets that have a sample since `start`, by one probe of the primary key each."""
    rows = read(
        engine,
        """SELECT name FROM targets WHERE EXISTS (
               SELECT FROM engine_samples WHERE target = name AND sampled_at >= :start) ORDER BY name""",
        start=start,
    )
    return [str(name) for name in rows["name"]]


_LOAD = """
SELECT date_bin(make_interval(secs => :bucket_s), sampled_at, 'epoch') AS at, count(*) AS samples,
       count(DISTINCT date_bin('1 minute', sampled_at, 'epoch')) AS minutes_up,
       CAST(avg(running) AS float8) AS running, CAST(avg(waiting) AS float8) AS waiting,
       avg(kv_used_fraction) AS kv_used, max(kv_used_fraction) AS kv_used_most,
       avg(decode_tokens_per_s) AS decode_tokens_per_s, avg(prefill_tokens_per_s) AS prefill_tokens_per_s,
       avg(accepted_length) AS accepted_length
FROM engine_samples WHERE target = :target AND sampled_at >= :start
GROUP BY 1 ORDER BY 1
"""


def load(engine: Engine, target: str, start: datetime, bucket_s: int) -> pd.DataFrame:
    """Columns at, samples, minutes_up, running, waiting, kv_used, kv_used_most, decode_tokens_per_s,
    prefill_tokens_per_s, accepted_length: means over each bucket, `kv_used_most` the highest.
    """
    return read(engine, _LOAD, target=target, start=start, bucket_s=bucket_s)


# The whole state is large: only the last of each bucket is read.
_STATES = """
SELECT at, sampled.state -> 'step_s' AS step_s, sampled.state -> 'speculation' AS speculation,
       sampled.state ->> 'drafter' AS drafter
FROM generate_series(CAST(:start AS timestamptz), CAST(:end AS timestamptz), make_interval(secs => :bucket_s))
     AS bucket(at)
CROSS JOIN LATERAL (
    SELECT state FROM engine_samples
    WHERE target = :target AND sampled_at >= at AND sampled_at < at + make_interval(secs => :bucket_s)
    ORDER BY sampled_at DESC LIMIT 1
) AS sampled
ORDER BY at
"""


def states(engine: Engine, target: str, start: datetime, end: datetime, bucket_s: int) -> pd.DataFrame:
    """Columns at, step_s, speculation (mappings or None), drafter: the last state of each bucket."""
    return read(engine, _STATES, target=target, start=start, end=end, bucket_s=bucket_s)


# Histograms that are older than some hours are of longer spans: each row is put beside the mean load of its own span.
_BY_CONCURRENCY = """
WITH measured AS MATERIALIZED (
    SELECT minute, span_s, metric, k, n FROM latency_histograms WHERE target = :target AND minute >= :start
), busy AS MATERIALIZED (
    SELECT minute, span_s, width_bucket(mean, CAST(:limits AS float8[])) AS band
    FROM (SELECT DISTINCT minute, span_s FROM measured) AS spans CROSS JOIN LATERAL (
        SELECT CAST(avg(coalesce(running, 0)) AS float8) AS mean FROM engine_samples
        WHERE target = :target AND sampled_at >= minute AND sampled_at < minute + make_interval(secs => span_s)
    ) AS load
    WHERE mean IS NOT NULL
)
SELECT band, metric, k, sum(n) AS n
FROM (
    SELECT band, metric, unnest(k) AS k, unnest(n) AS n
    FROM busy JOIN measured USING (minute, span_s)
) AS cells
GROUP BY 1, 2, 3
"""


def by_concurrency(engine: Engine, target: str, start: datetime) -> pd.DataFrame:
    """Columns band (index into `CONCURRENCIES`), metric, k, n: latencies by how many sequences ran."""
    return read(engine, _BY_CONCURRENCY, target=target, start=start, limits=_LIMITS)


_TOKENS = f"""
SELECT {AT}, {total("output_tokens")} FROM attempt_sums WHERE at >= :start AND target = :target
GROUP BY 1 ORDER BY 1
"""


def tokens(engine: Engine, target: str, start: datetime, bucket_s: int) -> pd.DataFrame:
    """Columns at, output_tokens: of all attempts at this target."""
    return read(engine, _TOKENS, target=target, start=start, bucket_s=bucket_s)
