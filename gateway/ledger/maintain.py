"""Keeps the ledger small: old histograms and sums in coarser spans, what is past its retention dropped.

In: a connection inside a transaction, the time now, days to keep. Out: what was done. The drain does it every few
minutes (see `upkeep`), `sparkgate db maintain` at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, delete, text

from gateway.ledger.compaction import SUMS, compact_histograms, compact_sums
from gateway.ledger.partitions import drop_before, ensure_partitions, uuid_floor
from gateway.ledger.tables import (
    engine_hours,
    engine_samples,
    latency_histograms,
    outcomes,
    response_homes,
    tasks,
)

DAYS_AHEAD = 3  # partitions made before they are needed
SAMPLES_KEPT = timedelta(days=14)
HOMES_KEPT = timedelta(days=30)  # OpenAI forgets responses then
SUMS_KEPT_TIMES = 10  # as long as the rows they came from
FOR_EVER = 18_000  # days: what is asked for beyond is before 1980, and soon before the year 1
_LOCK = 0x5BA2C6A82
_LOCK_WITHIN = "5s"  # who waits for a partition's lock holds up everybody behind it


@dataclass(frozen=True, slots=True)
class Maintained:
    """Names of partitions, rows that histograms and sums of each span (seconds) became, rows deleted by table."""

    dropped: list[str]
    made: list[str]
    histograms: dict[int, int]
    sums: dict[int, int]
    deleted: dict[str, int]


def lock(connection: Connection, *, wait: bool) -> bool:
    """Whether this transaction is the one that looks after the ledger: others wait, or leave it to it."""
    function = "pg_advisory_xact_lock" if wait else "pg_try_advisory_xact_lock"
    return connection.scalar(text(f"SELECT {function}(:key)"), {"key": _LOCK}) is not False


def maintain(connection: Connection, now: datetime, retention_days: int) -> Maintained:
    """One pass, by who has the `lock`. Raises an OperationalError when a partition is in use for too long."""
    today, retention_days = now.astimezone(UTC).date(), min(retention_days, FOR_EVER)
    made = ensure_partitions(connection, [today + timedelta(days=ahead) for ahead in range(DAYS_AHEAD)])
    histograms, sums = compact_histograms(connection, now), compact_sums(connection, now)
    deleted = _delete(connection, now, retention_days)
    connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_WITHIN}'"))
    dropped = drop_before(connection, today - timedelta(days=retention_days))  # last: it locks out everybody
    return Maintained(dropped, made, histograms, sums, deleted)


def _delete(connection: Connection, now: datetime, retention_days: int) -> dict[str, int]:
    kept_from = now - timedelta(days=retention_days)
    sums_from = now - timedelta(days=min(SUMS_KEPT_TIMES * retention_days, FOR_EVER))
    old = {
        tasks: (tasks.c.first_seen_at < kept_from) & (tasks.c.last_at < kept_from),
        outcomes: outcomes.c.id < uuid_floor(kept_from),
        engine_samples: engine_samples.c.sampled_at < now - SAMPLES_KEPT,
        response_homes: response_homes.c.created_at < now - HOMES_KEPT,
        engine_hours: engine_hours.c.hour < sums_from,
        latency_histograms: latency_histograms.c.minute < sums_from,
        **{table: table.c.at < sums_from for table in SUMS},
    }
    return {table.name: connection.execute(delete(table).where(old[table])).rowcount for table in old}
