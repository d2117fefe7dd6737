"""The SQL of one exchange: found by its request id, with all its attempts.

In: a request id as in `X-Request-Id` (`req_` and 32 hex digits), or a plain UUID. Out: DataFrames.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import pandas as pd
from sqlalchemy import Engine

from dashboard.database import read


def parse_request_id(written: str) -> UUID | None:
    """None when it is not the id of an exchange."""
    try:
        return UUID(written.strip().removeprefix("req_"))
    except ValueError:
        return None


def exchange(engine: Engine, exchange_id: UUID) -> pd.DataFrame:
    """One row or none; the key names the partition."""
    return read(
        engine,
        """SELECT id, started_at, caller, endpoint, model_asked, task_id, workflow, shape, shape_source,
                  policy_hash, decision, target, model, status, stream, attempts, ttft_s, total_s,
                  tokens_per_s, overhead_s, input_tokens, cached_tokens, output_tokens, reasoning_tokens,
                  CAST(cost_usd AS float8) AS cost_usd, error_code, timed_out, finish_reason, response_model
           FROM exchanges WHERE id = :id""",
        id=exchange_id,
    )


def attempts(engine: Engine, exchange_id: UUID, started_at: datetime) -> pd.DataFrame:
    """All upstream tries in order, hedge losers included, and shadows. Tries begin within a day of their exchange."""
    return read(
        engine,
        """SELECT ordinal, started_at, target, model, result, http_status, error_code, error_message, ttft_s,
                  total_s, input_tokens, output_tokens, CAST(cost_usd AS float8) AS cost_usd,
                  upstream_request_id, engine, role
           FROM attempts
           WHERE exchange_id = :id AND id >= uuid_floor(:start) AND id < uuid_floor(:until)
           ORDER BY ordinal""",
        id=exchange_id,
        start=started_at - timedelta(seconds=5),
        until=started_at + timedelta(days=1),
    )
