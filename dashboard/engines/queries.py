"""The SQL of the engine page: samples of an engine's `/state`, and the latencies of the minutes they fell into."""

from __future__ import annotations

from datetime import datetime

import pandas as pd
from sqlalchemy import Engine

from dashboard.database import read

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


# Histograms older than two days are kept by the hour: over a longer span, load is averaged over hours too.
_BY_CONCURRENCY = """
WITH busy AS (
    SELECT date_bin(make_interval(secs => :bin_s), sampled_at, 'epoch') AS at,
           width_bucket(CAST(avg(coalesce(running, 0)) AS float8), CAST(:limits AS float8[])) AS band
    FROM engine_samples WHERE target = :target AND sampled_at >= :start
    GROUP BY 1
)
SELECT band, metric, bucket.k, CAST(sum(bucket.n) AS bigint) AS n
FROM busy JOIN latency_histograms AS h
     ON h.target = :target AND h.minute >= :start
        AND date_bin(make_interval(secs => :bin_s), h.minute, 'epoch') = busy.at,
     unnest(h.k, h.n) AS bucket(k, n)
GROUP BY 1, 2, 3
"""


def by_concurrency(engine: Engine, target: str, start: datetime, span_s: int) -> pd.DataFrame:
    """Columns band (index into `CONCURRENCIES`), metric, k, n: latencies by how many sequences ran."""
    bin_s = 60 if span_s <= 86_400 else 3600
    return read(engine, _BY_CONCURRENCY, target=target, start=start, bin_s=bin_s, limits=_LIMITS)


_TOKENS = """
SELECT date_bin(make_interval(secs => :bucket_s), started_at, 'epoch') AS at,
       CAST(coalesce(sum(output_tokens), 0) AS bigint) AS output_tokens
FROM attempts WHERE id >= uuid_floor(:start) AND started_at >= :start AND target = :target
GROUP BY 1 ORDER BY 1
"""


def tokens(engine: Engine, target: str, start: datetime, bucket_s: int) -> pd.DataFrame:
    """Columns at, output_tokens: of all attempts at this target."""
    return read(engine, _TOKENS, target=target, start=start, bucket_s=bucket_s)
