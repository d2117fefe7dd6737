"""The SQL of the overview, one function a question, each answered as a DataFrame.

Everything here and in the other pages' `queries` is read from sums that the ledger keeps: calls, attempts, choices
and tasks in `*_sums`, latencies in `latency_histograms` (see `quantiles`), engines in `engine_hours` and their samples.
Single calls are read by `rows` alone. A sum is of the span that begins `at`: minutes of late, then quarters of an hour,
hours, days. They add up whatever they are, from any start that is an edge of theirs (see `spans`). An unknown cost is
counted, never summed as 0.
"""

from __future__ import annotations

from datetime import datetime

import pandas as pd
from sqlalchemy import Engine

from dashboard.database import read
from dashboard.quantiles import of_arrays

NOT_ROUTED = "(not routed)"
NO_SHAPE = "(no shape)"

AT = "date_bin(make_interval(secs => :bucket_s), at, 'epoch') AS at"
OF_SHAPE = "(CAST(:shape AS text) IS NULL OR shape = :shape)"


def total(column: str) -> str:
    return f"CAST(sum({column}) AS bigint) AS {column}"


def known_cost(counted: str) -> str:
    """The columns cost_usd, NULL when not one cost is known, and unpriced; `counted` is what has a cost."""
    return (
        f"CAST(CASE WHEN sum({counted}) > sum(unpriced) THEN sum(cost_usd) END AS float8) AS cost_usd, "
        f"{total('unpriced')}"
    )


_TRAFFIC = f"""
SELECT {AT}, coalesce(nullif(target, ''), '{NOT_ROUTED}') AS target,
       coalesce(nullif(shape, ''), CASE target WHEN '' THEN '{NO_SHAPE}' ELSE 'general' END) AS shape,
       {total("calls")}, {total("errors")}, {total("timeouts")}, {known_cost("calls")}
FROM call_sums WHERE at >= :start AND {OF_SHAPE}
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""


def traffic(engine: Engine, start: datetime, bucket_s: int, shape: str | None = None) -> pd.DataFrame:
    """Columns at, target, shape, calls, errors, timeouts, cost_usd (of calls with a known cost), unpriced."""
    return read(engine, _TRAFFIC, start=start, bucket_s=bucket_s, shape=shape)


# Buckets merge by addition. What is unnested in the list of columns takes half the time of a join with `unnest`.
_LATENCIES = f"""
WITH cells AS (
    SELECT date_bin(make_interval(secs => :bucket_s), minute, 'epoch') AS at, target, metric,
           unnest(k) AS k, unnest(n) AS n
    FROM latency_histograms
    WHERE minute >= :start AND metric IN ('ttft_s', 'total_s') AND {OF_SHAPE}
), merged AS (
    SELECT at, target, metric, k, sum(n) AS n FROM cells GROUP BY 1, 2, 3, 4
)
SELECT at, target, metric, array_agg(k ORDER BY k) AS k, array_agg(n ORDER BY k) AS n
FROM merged GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""


def latencies(engine: Engine, start: datetime, bucket_s: int, shape: str | None = None) -> pd.DataFrame:
    """Columns at, target, metric (ttft_s, total_s), n, p50, p95, p99: in seconds."""
    rows = read(engine, _LATENCIES, start=start, bucket_s=bucket_s, shape=shape)
    return rows[["at", "target", "metric"]].join(of_arrays(rows["k"], rows["n"]))


_BUCKETS = f"""
SELECT target, shape, metric, k, sum(n) AS n
FROM (
    SELECT target, shape, metric, unnest(k) AS k, unnest(n) AS n
    FROM latency_histograms WHERE minute >= :start AND {OF_SHAPE}
) AS cells
GROUP BY 1, 2, 3, 4
"""


def latency_buckets(engine: Engine, start: datetime, shape: str | None = None) -> pd.DataFrame:
    """Columns target, shape, metric, k, n: everything measured since `start`."""
    return read(engine, _BUCKETS, start=start, shape=shape)


_ATTEMPTS = f"""
SELECT {AT}, target, {total("attempts")},
       CAST(coalesce(sum(attempts) FILTER (
           WHERE result NOT IN ('ok', 'client_gone', 'hedge_lost')), 0) AS bigint) AS failed,
       CAST(coalesce(sum(attempts) FILTER (WHERE starts_with(result, 'timeout_')), 0) AS bigint) AS timeouts,
       {known_cost("attempts")}
FROM attempt_sums WHERE at >= :start AND (role = 'shadow') = :on_trial AND {OF_SHAPE}
GROUP BY 1, 2 ORDER BY 1, 2
"""


def attempts(engine: Engine, start: datetime, bucket_s: int, shape: str | None = None) -> pd.DataFrame:
    """Columns at, target, attempts, failed, timeouts, cost_usd, unpriced: upstream tries, losers included.

    Calls name only the target that answered; a target whose every call had to be rescued by a fallback would
    look healthy there.
    """
    return read(engine, _ATTEMPTS, start=start, bucket_s=bucket_s, shape=shape, on_trial=False)


def shadows(engine: Engine, start: datetime, bucket_s: int, shape: str | None = None) -> pd.DataFrame:
    """The same of tries that were made on trial, which no call's cost has in it."""
    return read(engine, _ATTEMPTS, start=start, bucket_s=bucket_s, shape=shape, on_trial=True)


_BY_STATUS = ", ".join(
    f"CAST(coalesce(sum(tasks) FILTER (WHERE status = '{status}'), 0) AS bigint) AS {status}"
    for status in ("completed", "failed", "abandoned", "open")
)
# The cohort is the tasks that began in the span, with everything that they cost until now.
_TASKS = f"""
SELECT coalesce(nullif(workflow, ''), '(no workflow)') AS workflow, {total("tasks")},
       {_BY_STATUS}, {total("calls")}, {known_cost("attempts")}
FROM task_sums WHERE at >= :start
GROUP BY 1 HAVING sum(tasks) > 0 ORDER BY tasks DESC, 1
"""


def tasks_by_workflow(engine: Engine, start: datetime) -> pd.DataFrame:
    """Columns workflow, tasks, completed, failed, abandoned, open, calls, cost_usd, unpriced (attempts)."""
    return read(engine, _TASKS, start=start)


def last_call_at(engine: Engine) -> datetime | None:
    """When the newest call of all began, to the minute, or the hour where that is long ago."""
    rows = read(engine, "SELECT max(at) AS at FROM call_sums")
    return None if pd.isna(rows["at"].iloc[0]) else rows["at"].iloc[0].to_pydatetime()


def targets(engine: Engine) -> pd.DataFrame:
    """Columns name, kind, model, url, disabled_reason, price_note, usd_per_hour, updated_at."""
    return read(
        engine,
        """SELECT name, kind, model, url, disabled_reason, price_note, CAST(usd_per_hour AS float8) AS usd_per_hour,
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


# An hour that begins before `start`, or has not ended, counts by the part of it that lies in the span.
_ENGINE_COSTS = """
SELECT target, CASE WHEN count(*) = count(usd) THEN CAST(sum(usd * CAST(share AS numeric)) AS float8) END AS cost_usd
FROM engine_hours
CROSS JOIN LATERAL (SELECT least(hour + interval '1 hour', CAST(:end AS timestamptz)) AS until) AS ended
CROSS JOIN LATERAL (
    SELECT extract(epoch FROM until - greatest(hour, :start)) / extract(epoch FROM until - hour) AS share
) AS part
WHERE hour > CAST(:start AS timestamptz) - interval '1 hour' AND hour < :end
GROUP BY 1
"""


def engine_costs(engine: Engine, start: datetime, end: datetime) -> pd.DataFrame:
    """Columns target, cost_usd: what each engine cost by the hours it was up; None without a known price."""
    return read(engine, _ENGINE_COSTS, start=start, end=end)


def known_shapes(engine: Engine, start: datetime) -> list[str]:
    """The shapes of calls since `start`, in order of name."""
    rows = read(
        engine,
        "SELECT DISTINCT shape FROM call_sums WHERE at >= :start AND shape <> '' ORDER BY 1",
        start=start,
    )
    return [str(shape) for shape in rows["shape"]]
