"""One batch of spooled records into Postgres: idempotent, in the caller's transaction.

In: a connection and records (see `ledger.records`). Rows whose key is there already are left alone; sums and
histograms count only rows that were really inserted, so a batch delivered twice changes nothing. Knows no files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from gateway.ledger import joining, tables, tasks
from gateway.ledger.inserts import adding, insert, insert_new
from gateway.ledger.partitions import day_of, ensure_partitions
from gateway.ledger.records import uuid7
from gateway.ledger.rollups import Sums, Workflows

Row = dict[str, Any]
_UUID7 = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_YEAR_10000 = "e677d21f-dc00"


@dataclass(frozen=True, slots=True)
class Written:
    """Rows really inserted."""

    exchanges: int
    attempts: int
    outcomes: int


def problem(record: Row) -> str | None:
    """Why a record cannot be written, as far as that shows at a glance: what else is wrong, the database tells."""
    try:
        match record:
            case {"kind": "exchange", "exchange": dict(row), "attempts": list(attempts)}:
                _check_key(row["id"])
                for attempt in attempts:
                    _check_key(attempt["id"])
                joining.check(record.get("thread"))
            case {"kind": "shadow", "attempt": dict(row)}:
                _check_key(row["id"])
                _check_key(row["exchange_id"])
                tasks.moment(row["started_at"])
            case {"kind": "outcome", "outcome": dict(row)}:
                _check_key(row["id"])
                tasks.moment(row["reported_at"])
                _check_text(row, "caller", "task_id")
            case {"kind": "price", "price": {"id": str()}}:
                pass
            case {"kind": "response_home", "response_home": dict(row)}:
                tasks.moment(row["created_at"])
                _check_text(row, "id", "target", "caller")
            case _:
                return f"unknown kind of record: {record.get('kind')!r}"
    except (ValueError, TypeError, KeyError) as error:
        return f"malformed record: {type(error).__name__}: {error}"
    return None


def _check_key(key: str) -> None:
    """Its day will name a partition."""
    if not _UUID7.fullmatch(key):
        raise ValueError(f"{key!r} is not a UUIDv7")
    if key >= _YEAR_10000:
        raise ValueError(f"{key} names a day past the year 9999")


def _check_text(row: Row, *keys: str) -> None:
    for key in keys:
        if not isinstance(row[key], str):
            raise TypeError(f"{key} is no text: {row[key]!r}")


def write(connection: Connection, records: Sequence[Row], workflows: Workflows | None = None) -> Written:
    """Write records that have no `problem`. `workflows` are remembered from batch to batch.

    Raises what the database raises, and what `Sums` raises of a row; the caller commits.
    """
    calls = {record["exchange"]["id"]: record for record in records if record["kind"] == "exchange"}
    exchanges = [record["exchange"] for record in calls.values()]
    shadows = _keyed(records, "shadow", "attempt")
    attempts = {row["id"]: row for record in calls.values() for row in record["attempts"]} | shadows
    outcomes = _keyed(records, "outcome", "outcome")
    ensure_partitions(connection, _days([*calls, *attempts]))
    joined = joining.join(connection, list(calls.values()))
    there = insert_new(connection, tables.exchanges, exchanges)
    attempts_there = insert_new(connection, tables.attempts, list(attempts.values()))
    tasks.name(connection, outcomes.values())
    outcomes_there = insert_new(connection, tables.outcomes, list(outcomes.values()))
    insert_new(connection, tables.prices, list(_keyed(records, "price", "price").values()))
    insert_new(
        connection,
        tables.response_homes,
        list(_keyed(records, "response_home", "response_home").values()),
    )
    workflows = workflows or Workflows()
    new_calls = [record for key, record in calls.items() if key not in there]
    new_outcomes = [row for key, row in outcomes.items() if key not in outcomes_there]
    joining.note(connection, joined, {record["exchange"]["id"] for record in new_calls})
    tasks.write(connection, new_calls, new_outcomes, workflows)
    sums = Sums(workflows)
    for record in new_calls:
        sums.add(record["exchange"], record["attempts"])
    new_shadows = [row for key, row in shadows.items() if key not in attempts_there]
    shapes = _shapes(connection, new_shadows)
    for row in new_shadows:
        sums.add_shadow(row, shapes.get(row["exchange_id"]))
    insert(connection, tables.latency_histograms, sums.histogram_rows(uuid7()))
    for table, rows in sums.rows().items():
        insert(connection, table, rows, adding(table))
    return Written(
        len(calls) - len(there), len(attempts) - len(attempts_there), len(outcomes) - len(outcomes_there)
    )


def _keyed(records: Sequence[Row], kind: str, part: str) -> dict[str, Row]:
    """By their ids, of which the first stays."""
    return {record[part]["id"]: record[part] for record in reversed(records) if record["kind"] == kind}


def _days(keys: Iterable[str]) -> set[date]:
    """The first 40 bits count quarters of a second: keys that share them share their day."""
    return {day_of(UUID(key)) for key in {key[:11]: key for key in keys}.values()}


def _shapes(connection: Connection, shadows: Iterable[Row]) -> dict[str, str | None]:
    """Of the exchanges that these were made beside, which come before them."""
    keys = [row["exchange_id"] for row in shadows]
    if not keys:
        return {}
    query = text("SELECT id::text, shape FROM exchanges WHERE id = ANY (CAST(:keys AS uuid[]))")
    return {row.id: row.shape for row in connection.execute(query, {"keys": keys})}
