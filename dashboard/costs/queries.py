"""The SQL of tasks and cost. An unknown cost is NULL and is counted, never summed as 0."""

from __future__ import annotations

from datetime import datetime

import pandas as pd
from sqlalchemy import Engine

from dashboard.database import read

# The cohort is that of `queries.tasks_by_workflow`: tasks that began in the span.
_BY_END = """
WITH begun AS (
    SELECT caller, task_id, workflow FROM tasks WHERE first_seen_at >= :start
), spent AS (
    SELECT caller, task_id, coalesce(target, '(not routed)') AS target, sum(cost_usd) AS cost_usd,
           count(*) AS calls, count(*) FILTER (WHERE cost_usd IS NULL) AS unpriced
    FROM exchanges
    WHERE id >= uuid_floor(:start) AND task_id IS NOT NULL
    GROUP BY 1, 2, 3
), ended AS (
    SELECT DISTINCT ON (caller, task_id) caller, task_id, status, workflow
    FROM outcomes WHERE id >= uuid_floor(:start)
    ORDER BY caller, task_id, reported_at DESC, id DESC
)
SELECT coalesce(begun.workflow, ended.workflow, '(no workflow)') AS workflow,
       coalesce(status, 'open') AS task_status, target, CAST(sum(calls) AS bigint) AS calls,
       CAST(sum(cost_usd) AS float8) AS cost_usd, CAST(sum(unpriced) AS bigint) AS unpriced
FROM begun JOIN spent USING (caller, task_id) LEFT JOIN ended USING (caller, task_id)
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3
"""


def by_end(engine: Engine, start: datetime) -> pd.DataFrame:
    """Columns workflow, task_status, target, calls, cost_usd, unpriced: where the money of tasks went."""
    return read(engine, _BY_END, start=start)


_SPENDING = """
SELECT date_bin(make_interval(secs => :bucket_s), started_at, 'epoch') AS at, target,
       result = 'ok' AS answered, count(*) AS attempts,
       CAST(coalesce(sum(input_tokens), 0) AS bigint) AS input_tokens,
       CAST(coalesce(sum(output_tokens), 0) AS bigint) AS output_tokens,
       CAST(sum(cost_usd) AS float8) AS cost_usd, count(*) FILTER (WHERE cost_usd IS NULL) AS unpriced
FROM attempts
WHERE id >= uuid_floor(:start) AND started_at >= :start AND role IS NULL
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3
"""


def spending(engine: Engine, start: datetime, bucket_s: int) -> pd.DataFrame:
    """Columns at, target, answered, attempts, input_tokens, output_tokens, cost_usd, unpriced: all but shadows."""
    return read(engine, _SPENDING, start=start, bucket_s=bucket_s)
