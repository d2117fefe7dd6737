"""Day partitions of `exchanges` and `attempts`: their names, their bounds, making and dropping them.

A UUIDv7 starts with its milliseconds, so a day is a range of keys. In: a connection inside a transaction, and
days (UTC). Rows that found no partition wait in `<table>_default` and are moved when theirs is made.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID

from sqlalchemy import Connection, text

TABLES = ("exchanges", "attempts")
_LOCK = 0x5BA2C6A7F


@dataclass(frozen=True, slots=True)
class Partition:
    """Keys in [lower, upper) of one day."""

    table: str
    name: str
    lower: UUID
    upper: UUID


def uuid_floor(moment: datetime) -> UUID:
    """The smallest UUIDv7 of a millisecond; the SQL function of the same name gives the same."""
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    ms = since // timedelta(milliseconds=1)
    return UUID(int=ms << 80 | 0x7000_8000_0000_0000_0000)


def day_of(key: UUID) -> date:
    """The UTC day a UUIDv7 was made on. ValueError for another kind of UUID, or a day past the year 9999."""
    if key.version != 7:
        raise ValueError(f"{key} is not a UUIDv7")
    try:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=key.int >> 80)).date()
    except OverflowError:
        raise ValueError(f"{key} names a day past the year 9999") from None


def partition_of(table: str, day: date) -> Partition:
    start = datetime.combine(day, time(), tzinfo=UTC)
    return Partition(table, f"{table}_{day:%Y%m%d}", uuid_floor(start), uuid_floor(start + timedelta(days=1)))


def ensure_partitions(connection: Connection, days: Iterable[date]) -> list[str]:
    """Make the partitions of these days that do not exist, in both tables. Returns the names made."""
    wanted = [partition_of(table, day) for table in TABLES for day in sorted(set(days))]
    if not _missing(connection, wanted):
        return []
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    made = _missing(connection, wanted)  # another process may have made them while we waited
    for partition in made:
        _make(connection, partition)
    return [partition.name for partition in made]


def drop_before(connection: Connection, day: date) -> list[str]:
    """Drop the partitions of days before `day`, and such rows of the default ones. Returns the names."""
    dropped = []
    for table in TABLES:
        limit = partition_of(table, day)
        for name in _names(connection, table):
            if name < limit.name:
                connection.execute(text(f"DROP TABLE {name}"))
                dropped.append(name)
        connection.execute(text(f"DELETE FROM {table}_default WHERE id < :limit"), {"limit": limit.lower})
    return dropped


def _names(connection: Connection, table: str) -> list[str]:
    query = text(
        "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid "
        "WHERE inhparent = CAST(:table AS regclass) AND relname ~ :pattern ORDER BY relname"
    )
    return list(connection.scalars(query, {"table": table, "pattern": rf"^{table}_\d{{8}}$"}))


def _missing(connection: Connection, wanted: list[Partition]) -> list[Partition]:
    query = text("SELECT relname FROM pg_class WHERE relname = ANY (:names) AND pg_table_is_visible(oid)")
    there = set(connection.scalars(query, {"names": [partition.name for partition in wanted]}))
    return [partition for partition in wanted if partition.name not in there]


def _make(connection: Connection, partition: Partition) -> None:
    """Beside the parent, then attached: readers and writers of other days are not held up."""
    table, name = partition.table, partition.name
    bounds = {"lower": partition.lower, "upper": partition.upper}
    connection.execute(text(f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL)"))
    connection.execute(
        text(
            f"WITH moved AS (DELETE FROM {table}_default WHERE id >= :lower AND id < :upper RETURNING *) "
            f"INSERT INTO {name} SELECT * FROM moved"
        ),
        bounds,
    )
    connection.execute(
        text(
            f"ALTER TABLE {table} ATTACH PARTITION {name} "
            f"FOR VALUES FROM ('{partition.lower}') TO ('{partition.upper}')"
        )
    )
