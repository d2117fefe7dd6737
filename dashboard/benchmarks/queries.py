"""The SQL of the benchmarks page. Single samples and waves of a run, which are large, stay in the database."""

from __future__ import annotations

import pandas as pd
from sqlalchemy import Engine

from dashboard.database import read

_NEWEST = 500  # runs

_RUNS = """
SELECT id, kind, started_at, settings,
       coalesce(results -> 'figures', results -> 'models') AS figures,
       coalesce(results -> 'interrupted', settings -> 'interrupted') = 'true' AS interrupted
FROM bench_runs ORDER BY started_at DESC LIMIT :newest
"""


def runs(engine: Engine) -> pd.DataFrame:
    """Columns id, kind, started_at, settings, figures (a list of mappings), interrupted: newest first."""
    return read(engine, _RUNS, newest=_NEWEST)
