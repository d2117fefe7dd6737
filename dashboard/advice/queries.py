"""The SQL of the advice, over a bounded sample of a span's calls (see `sample`)."""

from __future__ import annotations

import math

import pandas as pd
from sqlalchemy import Engine

from dashboard.database import read
from dashboard.quantiles import GAMMA
from dashboard.sample import CTE, Sample

LONG_TOKENS = 300

_ENDPOINTS = f"""
WITH {CTE}, kept AS (
    SELECT endpoint, target, cost_usd,
           CASE WHEN status = 200 AND error_code IS NULL AND total_s > 0
                THEN CAST(ceil(ln(total_s) / {math.log(GAMMA)!r} - 1e-9) AS int) END AS k
    FROM sampled WHERE target IS NOT NULL
)
SELECT endpoint, target, k, count(*) AS n, CAST(sum(cost_usd) AS float8) AS cost_usd
FROM kept GROUP BY 1, 2, 3
"""


def endpoints(engine: Engine, sample: Sample) -> pd.DataFrame:
    """Columns endpoint, target, k (bucket of the completion; None for calls that did not end well), n, cost_usd."""
    return read(engine, _ENDPOINTS, **sample.parameters)


_UNSTREAMED = f"""
WITH {CTE}
SELECT caller, endpoint, count(*) AS calls,
       percentile_disc(0.5) WITHIN GROUP (ORDER BY total_s) AS waited_s
FROM sampled WHERE NOT stream AND output_tokens > :long_tokens
GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 3
"""


def unstreamed(engine: Engine, sample: Sample) -> pd.DataFrame:
    """Columns caller, endpoint, calls, waited_s (median): those of most long answers that were not streamed."""
    return read(engine, _UNSTREAMED, long_tokens=LONG_TOKENS, **sample.parameters)


_ALONE = f"""
WITH {CTE}, newest AS (
    SELECT DISTINCT ON (shape) shape, decision -> 'candidates' AS tried
    FROM sampled
    WHERE jsonb_typeof(decision -> 'candidates') = 'array'
      AND NOT starts_with(decision ->> 'reason', 'the model name pins')
    ORDER BY shape, id DESC
)
SELECT shape, tried -> 0 ->> 'target' AS target
FROM newest WHERE jsonb_array_length(tried) < 2 ORDER BY 1
"""


def without_fallback(engine: Engine, sample: Sample) -> pd.DataFrame:
    """Columns shape, target (None: nobody): shapes whose newest decision had no second target to try."""
    return read(engine, _ALONE, **sample.parameters)
