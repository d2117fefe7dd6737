"""Keeps the ledger small: old histograms in coarser spans, days past retention dropped.

In: a connection inside a transaction, the time now, days to keep. Out: what was done. Merging histograms adds
their counts, so quantiles over whole spans stay the same to the digit.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, delete, text

from gateway.ledger.partitions import drop_before, ensure_partitions
from gateway.ledger.records import uuid7
from gateway.ledger.tables import engine_samples, latency_histograms, response_homes

DAYS_AHEAD = 3  # partitions made before they are needed
MINUTES_KEPT = timedelta(hours=48)
HOURS_KEPT = timedelta(days=60)
SAMPLES_KEPT = timedelta(days=14)
HOMES_KEPT = timedelta(days=30)  # OpenAI forgets responses then
_LOCK = 0x5BA2C6A82

_COMPACT = """
WITH old AS (
    DELETE FROM latency_histograms WHERE span_s < :span_s AND minute < :before RETURNING *
), cells AS (
    SELECT date_trunc(:unit, minute, 'UTC') AS start, target, shape, metric, cell.k, sum(cell.n)::int AS n
    FROM old, unnest(old.k, old.n) AS cell (k, n)
    GROUP BY 1, 2, 3, 4, 5
)
INSERT INTO latency_histograms (batch_id, minute, target, shape, metric, span_s, k, n)
SELECT :batch_id, start, target, shape, metric, :span_s, array_agg(k ORDER BY k), array_agg(n ORDER BY k)
FROM cells GROUP BY start, target, shape, metric
"""


@dataclass(frozen=True, slots=True)
class Maintained:
    """Names of partitions, and how many rows histograms of each span became."""

    dropped: list[str]
    made: list[str]
    hours: int
    days: int


def maintain(connection: Connection, now: datetime, retention_days: int) -> Maintained:
    """One pass. Histograms outlive the rows they came from: they go at ten times the retention."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    today = now.astimezone(UTC).date()
    dropped = drop_before(connection, today - timedelta(days=retention_days))
    made = ensure_partitions(connection, [today + timedelta(days=ahead) for ahead in range(DAYS_AHEAD)])
    hours = _compact(connection, now - MINUTES_KEPT, "hour", 3600)
    days = _compact(connection, now - HOURS_KEPT, "day", 86_400)
    connection.execute(delete(engine_samples).where(engine_samples.c.sampled_at < now - SAMPLES_KEPT))
    connection.execute(delete(response_homes).where(response_homes.c.created_at < now - HOMES_KEPT))
    oldest = now - timedelta(days=10 * retention_days)
    connection.execute(delete(latency_histograms).where(latency_histograms.c.minute < oldest))
    return Maintained(dropped, made, hours, days)


def _compact(connection: Connection, before: datetime, unit: str, span_s: int) -> int:
    """Only whole spans: `before` is cut down to one."""
    start = before.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if unit == "day":
        start = start.replace(hour=0)
    values = {"before": start, "unit": unit, "span_s": span_s, "batch_id": uuid7()}
    return connection.execute(text(_COMPACT), values).rowcount
