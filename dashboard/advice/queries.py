"""The SQL of the advice: what endpoints cost, and long answers that were not streamed."""

from __future__ import annotations

from datetime import datetime

import pandas as pd
from sqlalchemy import Engine

from dashboard.database import read
from dashboard.queries import OF_SHAPE

LONG_TOKENS = 300  # what the ledger counts as a long answer

_COSTS = f"""
SELECT endpoint, target, CAST(sum(cost_usd) AS float8) AS cost_usd
FROM call_sums WHERE at >= :start AND target <> '' AND {OF_SHAPE}
GROUP BY 1, 2
"""


def costs(engine: Engine, start: datetime, shape: str | None) -> pd.DataFrame:
    """Columns endpoint, target, cost_usd: of the calls whose cost is known."""
    return read(engine, _COSTS, start=start, shape=shape)


_UNSTREAMED = f"""
SELECT endpoint, nullif(workflow, '') AS workflow, CAST(sum(unstreamed_long) AS bigint) AS calls,
       sum(unstreamed_long_s) / sum(unstreamed_long) AS waited_s
FROM call_sums WHERE at >= :start AND unstreamed_long > 0 AND {OF_SHAPE}
GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 3
"""


def unstreamed(engine: Engine, start: datetime, shape: str | None) -> pd.DataFrame:
    """Columns endpoint, workflow, calls, waited_s (mean): those of most long answers that were not streamed."""
    return read(engine, _UNSTREAMED, start=start, shape=shape)
