"""Histograms and sums in coarser spans as they age. Merging adds: totals over whole spans stay the same to the digit.

In: a connection inside a transaction, the time now. Out: how many rows of each span (seconds) were made. Spans begin
at multiples of their length (UTC). What comes late is merged with what is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from uuid import UUID

from sqlalchemy import Connection, Table, Text, text

from gateway.ledger import tables
from gateway.ledger.inserts import adding

MINUTE, QUARTER, HOUR, DAY = 60, 900, 3600, 86_400
FRESH_FOR = timedelta(minutes=1)  # after its end, few calls of a minute are still to come
MINUTES_KEPT = timedelta(hours=3)
FINE_KEPT = timedelta(hours=48)
HOURS_KEPT = timedelta(days=60)
HOURS_OF_HISTOGRAMS_KEPT = timedelta(days=8)  # large rows: a month of them takes too long to read
Levels = Sequence[tuple[int, timedelta]]  # spans made of rows older than that
HISTOGRAM_LEVELS: Levels = (
    (MINUTE, FRESH_FOR),
    (QUARTER, MINUTES_KEPT),
    (HOUR, FINE_KEPT),
    (DAY, HOURS_OF_HISTOGRAMS_KEPT),
)
FRESH = HISTOGRAM_LEVELS[:1]
SUM_LEVELS: Levels = ((QUARTER, MINUTES_KEPT), (HOUR, FINE_KEPT), (DAY, HOURS_KEPT))
SUMS = (  # in the order in which the drain writes them: no deadlocks
    tables.task_sums,
    tables.task_costs,
    tables.call_sums,
    tables.attempt_sums,
    tables.choice_sums,
    tables.rejection_sums,
)

# Rows of a batch have its key; merged ones have their span's, which is smaller, and are one of each cell.
_HISTOGRAMS = """
WITH finer AS (
    DELETE FROM latency_histograms WHERE batch_id {finer} AND minute < :before RETURNING *
), there AS (
    DELETE FROM latency_histograms AS merged USING (
        SELECT DISTINCT date_bin(:span, minute, 'epoch') AS start, target, shape, metric FROM finer
    ) AS cell
    WHERE merged.batch_id = :merged AND merged.minute = cell.start AND merged.target = cell.target
        AND merged.shape = cell.shape AND merged.metric = cell.metric
    RETURNING merged.*
), buckets AS (
    SELECT date_bin(:span, minute, 'epoch') AS start, target, shape, metric, bucket.k, sum(bucket.n) AS n
    FROM (SELECT * FROM finer UNION ALL SELECT * FROM there) AS rows, unnest(k, n) AS bucket (k, n)
    GROUP BY 1, 2, 3, 4, 5
)
INSERT INTO latency_histograms (batch_id, minute, target, shape, metric, span_s, k, n)
SELECT :merged, start, target, shape, metric, :span_s, array_agg(k ORDER BY k), array_agg(n ORDER BY k)
FROM buckets GROUP BY start, target, shape, metric
"""


def compact_histograms(
    connection: Connection, now: datetime, levels: Levels = HISTOGRAM_LEVELS
) -> dict[int, int]:
    made, finer_s = {}, 0
    for span_s, age in levels:
        which = "= :finer" if finer_s else "> :finer"
        values = _values(now, span_s, age) | {"merged": UUID(int=span_s), "finer": UUID(int=finer_s or DAY)}
        made[span_s] = connection.execute(text(_HISTOGRAMS.format(finer=which)), values).rowcount
        finer_s = span_s
    return made


def compact_sums(connection: Connection, now: datetime, levels: Levels = SUM_LEVELS) -> dict[int, int]:
    """Of all tables together."""
    made = {}
    for span_s, age in levels:
        values = _values(now, span_s, age)
        made[span_s] = sum(connection.execute(text(_sums(table)), values).rowcount for table in SUMS)
    return made


def _values(now: datetime, span_s: int, age: timedelta) -> dict[str, object]:
    """Only whole spans are made: the limit is cut down to one."""
    before = (now - age).timestamp()
    limit = datetime.fromtimestamp(before - before % span_s, now.tzinfo)
    return {"before": limit, "span": timedelta(seconds=span_s), "span_s": span_s}


@cache
def _sums(table: Table) -> str:
    keys = [column.name for column in table.primary_key][2:]
    values = [column for column in table.columns if not column.primary_key]
    added = [f"{'max' if isinstance(it.type, Text) else 'sum'}({it.name})" for it in values]
    columns = ", ".join(["at", "span_s", *keys, *(it.name for it in values)])
    return (
        f"WITH finer AS (DELETE FROM {table.name} WHERE span_s < :span_s AND at < :before RETURNING *) "
        f"INSERT INTO {table.name} ({columns}) "
        f"SELECT date_bin(:span, at, 'epoch') AS start, :span_s, {', '.join([*keys, *added])} "
        f"FROM finer GROUP BY {', '.join(['start', *keys])} ORDER BY {', '.join(['start', *keys])} {adding(table)}"
    )
