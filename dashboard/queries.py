"""The SQL of the overview, one function a question, each answered as a DataFrame.

Every read of `exchanges` and `attempts` is bounded below by `id >= uuid_floor(start)`: both are partitioned
by day on their UUIDv7 key, so the bound skips whole partitions and rides the primary key. Latencies come from
`latency_histograms` (see `quantiles`), counts and costs from the rows. An unknown cost is NULL and is
counted, never summed as 0.
"""

from __future__ import annotations

from datetime import datetime

import pandas as pd
from sqlalchemy import Engine

from dashboard.database import read

NOT_ROUTED = "(not routed)"
NO_SHAPE = "(no shape)"

# A client that left is no failure of ours; an error after a 200 has been sent is.
_FAILED = """(status <> 499 AND error_code IS DISTINCT FROM 'client_gone'
              AND (status >= 400 OR error_code IS NOT NULL))"""

_TRAFFIC = f"""
SELECT date_bin(make_interval(secs => :bucket_s), started_at, 'epoch') AS at,
       coalesce(target, '{NOT_ROUTED}') AS target,
       coalesce(shape, CASE WHEN target IS NULL THEN '{NO_SHAPE}' ELSE 'general' END) AS shape,
       count(*) AS calls,
       count(*) FILTER (WHERE {_FAILED}) AS errors,
       count(*) FILTER (WHERE timed_out IS NOT NULL) AS timeouts,
       CAST(sum(cost_usd) AS float8) AS cost_usd,
       count(*) FILTER (WHERE cost_usd IS NULL) AS unpriced
FROM exchanges
WHERE id >= uuid_floor(:start) AND started_at >= :start
  AND (CAST(:shape AS text) IS NULL OR shape = :shape)
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3
"""


def traffic(engine: Engine, start: datetime, bucket_s: int, shape: str | None = None) -> pd.DataFrame:
    """Columns at, target, shape, calls, errors, timeouts, cost_usd (of calls with a known cost), unpriced."""
    return read(engine, _TRAFFIC, start=start, bucket_s=bucket_s, shape=shape)


# One scan for both cuts: by time × target for the charts, by target × shape for figures and tables. Buckets are
# merged first, which parallel workers can do; what then is cut twice is small.
_LATENCY = """
WITH merged AS MATERIALIZED (
    SELECT at, target, shape, metric, bucket.k, sum(bucket.n) AS n
    FROM (
        SELECT date_bin(make_interval(secs => :bucket_s), minute, 'epoch') AS at, target, shape, metric, k, n
        FROM latency_histograms
        WHERE minute >= :start AND (CAST(:shape AS text) IS NULL OR shape = :shape)
    ) AS cut, unnest(k, n) AS bucket(k, n)
    GROUP BY 1, 2, 3, 4, 5
)
SELECT GROUPING(at) = 0 AS is_series, at, target, shape, metric, k, CAST(sum(n) AS bigint) AS n
FROM merged
GROUP BY GROUPING SETS ((at, target, metric, k), (target, shape, metric, k))
"""


def latency(
    engine: Engine, start: datetime, bucket_s: int, shape: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Merged buckets: (at, target, metric, k, n) over time; (target, shape, metric, k, n) over the span."""
    rows = read(engine, _LATENCY, start=start, bucket_s=bucket_s, shape=shape)
    is_series = rows["is_series"].astype(bool)
    over_time = rows[is_series].drop(columns=["is_series", "shape"])
    return over_time, rows[~is_series].drop(columns=["is_series", "at"])


_ATTEMPTS = """
SELECT date_bin(make_interval(secs => :bucket_s), started_at, 'epoch') AS at, target,
       count(*) AS attempts,
       count(*) FILTER (WHERE result NOT IN ('ok', 'client_gone')) AS failed,
       count(*) FILTER (WHERE starts_with(result, 'timeout_')) AS timeouts,
       CAST(sum(cost_usd) AS float8) AS cost_usd,
       count(*) FILTER (WHERE cost_usd IS NULL) AS unpriced
FROM attempts AS a
WHERE id >= uuid_floor(:start) AND started_at >= :start AND role {role}
  AND (CAST(:shape AS text) IS NULL OR EXISTS (
      SELECT FROM exchanges AS e
      WHERE e.id = a.exchange_id AND e.shape = :shape AND e.id >= uuid_floor(:start)))
GROUP BY 1, 2
ORDER BY 1, 2
"""


def attempts(engine: Engine, start: datetime, bucket_s: int, shape: str | None = None) -> pd.DataFrame:
    """Columns at, target, attempts, failed, timeouts, cost_usd, unpriced: upstream tries, losers included.

    `exchanges` name only the target that answered; a target whose every call had to be rescued by a fallback
    would look healthy there.
    """
    return read(engine, _ATTEMPTS.format(role="IS NULL"), start=start, bucket_s=bucket_s, shape=shape)


def shadows(engine: Engine, start: datetime, bucket_s: int, shape: str | None = None) -> pd.DataFrame:
    """The same of tries that were made on trial, which no call's cost has in it."""
    return read(engine, _ATTEMPTS.format(role="= 'shadow'"), start=start, bucket_s=bucket_s, shape=shape)


# The cohort is the tasks that began in the span: then all their exchanges lie in it too.
_TASKS = """
WITH begun AS (
    SELECT caller, task_id, workflow FROM tasks WHERE first_seen_at >= :start
), spent AS (
    SELECT caller, task_id, sum(cost_usd) AS cost_usd, count(*) AS calls,
           count(*) FILTER (WHERE cost_usd IS NULL) AS unpriced
    FROM exchanges
    WHERE id >= uuid_floor(:start) AND task_id IS NOT NULL
    GROUP BY 1, 2
), ended AS (
    SELECT DISTINCT ON (caller, task_id) caller, task_id, status, workflow
    FROM outcomes WHERE id >= uuid_floor(:start)
    ORDER BY caller, task_id, reported_at DESC, id DESC
)
SELECT coalesce(begun.workflow, ended.workflow, '(no workflow)') AS workflow,
       count(*) AS tasks,
       count(*) FILTER (WHERE status = 'completed') AS completed,
       count(*) FILTER (WHERE status = 'failed') AS failed,
       count(*) FILTER (WHERE status = 'abandoned') AS abandoned,
       count(*) FILTER (WHERE status IS NULL) AS open,
       CAST(coalesce(sum(calls), 0) AS bigint) AS calls,
       CAST(sum(cost_usd) AS float8) AS cost_usd,
       CAST(coalesce(sum(unpriced), 0) AS bigint) AS unpriced
FROM begun LEFT JOIN spent USING (caller, task_id) LEFT JOIN ended USING (caller, task_id)
GROUP BY 1
ORDER BY tasks DESC, 1
"""


def tasks_by_workflow(engine: Engine, start: datetime) -> pd.DataFrame:
    """Columns workflow, tasks, completed, failed, abandoned, open, calls, cost_usd, unpriced.

    The cost is that of all attempts of all the tasks, whatever became of them.
    """
    return read(engine, _TASKS, start=start)


# What is rare is looked for among the newest calls only: no walk through a whole month for fifteen rows.
_LOOKED_AT = 20_000
_NEWEST = f"""
SELECT id, started_at, caller, model_asked, shape, shape_source, target, status, stream, attempts, ttft_s,
       total_s, tokens_per_s, output_tokens, CAST(cost_usd AS float8) AS cost_usd, error_code, timed_out,
       decision ->> 'reason' AS reason, CAST(decision ->> 'explored' AS boolean) AS explored
FROM (
    SELECT * FROM exchanges
    WHERE id >= uuid_floor(:start) AND (CAST(:shape AS text) IS NULL OR shape = :shape)
    ORDER BY id DESC
    LIMIT CASE WHEN :min_attempts > 0 THEN {_LOOKED_AT} ELSE :limit END
) AS newest
WHERE attempts >= :min_attempts
ORDER BY id DESC
LIMIT :limit
"""


def newest_exchanges(
    engine: Engine, start: datetime, shape: str | None, limit: int, min_attempts: int = 0
) -> pd.DataFrame:
    """The newest exchanges, newest first, each with the sentence that says why its target was chosen.

    Those of `min_attempts` attempts are looked for among the newest 20,000.
    """
    return read(engine, _NEWEST, start=start, shape=shape, limit=limit, min_attempts=min_attempts)


def last_call_at(engine: Engine) -> datetime | None:
    """When the newest call of all began. Unbounded, yet cheap: the newest partition's key has it first."""
    rows = read(engine, "SELECT started_at FROM exchanges ORDER BY id DESC LIMIT 1")
    return None if rows.empty else rows["started_at"].iloc[0].to_pydatetime()


def targets(engine: Engine) -> pd.DataFrame:
    """Columns name, kind, model, url, disabled_reason, usd_per_hour, updated_at."""
    return read(
        engine,
        """SELECT name, kind, model, url, disabled_reason, CAST(usd_per_hour AS float8) AS usd_per_hour,
                  updated_at
           FROM targets ORDER BY name""",
    )


def policies(engine: Engine, limit: int = 8) -> pd.DataFrame:
    """The newest versions, newest first; columns hash, source, published_at, error, yaml."""
    return read(
        engine,
        "SELECT hash, source, published_at, error, yaml FROM policies ORDER BY id DESC LIMIT :limit",
        limit=limit,
    )


def active_policy(engine: Engine) -> pd.DataFrame:
    """The one version in force, or no row: the newest without an error. Columns as of `policies`."""
    return read(
        engine,
        """SELECT hash, source, published_at, error, yaml FROM policies
           WHERE error IS NULL ORDER BY id DESC LIMIT 1""",
    )


def engine_status(engine: Engine) -> pd.DataFrame:
    """The newest sample of each engine target, by one probe of the primary key a target."""
    return read(
        engine,
        """SELECT s.target, s.sampled_at, s.running, s.waiting, s.kv_used_fraction, s.prefill_tokens_per_s,
                  s.decode_tokens_per_s, s.accepted_length, s.state
           FROM targets AS t CROSS JOIN LATERAL (
               SELECT * FROM engine_samples WHERE target = t.name ORDER BY sampled_at DESC LIMIT 1
           ) AS s ORDER BY s.target""",
    )


def engine_hours(engine: Engine, start: datetime) -> pd.DataFrame:
    """Columns target, hours: how long each engine was seen up, by the minutes that have a sample."""
    return read(
        engine,
        """SELECT target,
                  count(DISTINCT date_bin('1 minute', sampled_at, 'epoch')) / CAST(60 AS float8) AS hours
           FROM engine_samples WHERE sampled_at >= :start GROUP BY 1""",
        start=start,
    )


def known_shapes(engine: Engine, start: datetime) -> list[str]:
    """The shapes that have been measured since `start`, in order of name."""
    rows = read(
        engine, "SELECT DISTINCT shape FROM latency_histograms WHERE minute >= :start ORDER BY 1", start=start
    )
    return [str(shape) for shape in rows["shape"]]
