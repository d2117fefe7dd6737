"""The SQL of tasks and cost. An unknown cost is counted, never summed as 0."""

from __future__ import annotations

from datetime import datetime

import pandas as pd
from sqlalchemy import Engine

from dashboard.database import read
from dashboard.queries import AT, known_cost, total

# The cohort is that of `queries.tasks_by_workflow`: tasks that began in the span.
_BY_END = f"""
SELECT coalesce(nullif(workflow, ''), '(no workflow)') AS workflow, status AS task_status, target,
       {total("attempts")}, {known_cost("attempts")}
FROM task_costs WHERE at >= :start
GROUP BY 1, 2, 3 HAVING sum(attempts) > 0 ORDER BY 1, 2, 3
"""


def by_end(engine: Engine, start: datetime) -> pd.DataFrame:
    """Columns workflow, task_status, target, attempts, cost_usd, unpriced: where the money of tasks went."""
    return read(engine, _BY_END, start=start)


_SPENDING = f"""
SELECT {AT}, target, result = 'ok' AS answered, {total("attempts")}, {total("input_tokens")},
       {total("output_tokens")}, {known_cost("attempts")}
FROM attempt_sums WHERE at >= :start AND role <> 'shadow'
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""


def spending(engine: Engine, start: datetime, bucket_s: int) -> pd.DataFrame:
    """Columns at, target, answered, attempts, input_tokens, output_tokens, cost_usd, unpriced: all but shadows."""
    return read(engine, _SPENDING, start=start, bucket_s=bucket_s)
