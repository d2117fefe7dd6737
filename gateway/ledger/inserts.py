"""Ways of rows into tables: many by COPY, few as JSON, sums added to those that are there.

In: a connection inside a transaction, rows keyed by column. Errors are psycopg's or SQLAlchemy's, of SQLSTATE class
22 or 23 for a row that the database refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from operator import itemgetter
from typing import Any

import orjson
import psycopg
from sqlalchemy import Connection, Table, Text, text
from sqlalchemy.dialects.postgresql import JSONB, UUID

Row = dict[str, Any]
_DEFAULTED = {"first_seen_at"}  # of prices: filled by the database


def insert_new(connection: Connection, table: Table, rows: Sequence[Row]) -> set[str]:
    """Insert those whose key is new. Returns the others' `id`s. No two of `rows` may have the same.

    UniqueViolation where another process inserts one of them at this very moment: it will be there the next time.
    """
    if not rows:
        return set()
    kind = "uuid" if isinstance(table.columns["id"].type, UUID) else "text"
    query = text(f"SELECT id::text FROM {table.name} WHERE id = ANY (CAST(:keys AS {kind}[]))")
    there = set(connection.scalars(query, {"keys": [row["id"] for row in rows]}))
    new = [row for row in rows if row["id"] not in there]
    if new:
        _copy(connection, table, sorted(new, key=itemgetter("id")))  # one order for all writers: no deadlocks
    return there


def _copy(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    statement = f"COPY {table.name} ({', '.join(_columns(table))}) FROM STDIN"
    with driver.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        for values in map(_reader(table), rows):
            copy.write_row(values)


def _columns(table: Table) -> list[str]:
    return [column.name for column in table.columns if column.name not in _DEFAULTED]


@cache
def _reader(table: Table) -> Callable[[Row], list[Any]]:
    """A function that gives a row's values in the order of the columns, JSON as text."""
    names = _columns(table)
    of_json = [i for i, name in enumerate(names) if isinstance(table.columns[name].type, JSONB)]

    def values(row: Row) -> list[Any]:
        found = list(map(row.get, names))  # a row of an older version has fewer columns
        for i in of_json:
            if found[i] is not None:
                found[i] = orjson.dumps(found[i]).decode()
        return found

    return values


def insert(connection: Connection, table: Table, rows: Sequence[Row], on_conflict: str = "") -> None:
    """Few rows: Postgres itself reads the values out of their JSON."""
    if rows:
        query = f"SELECT * FROM jsonb_populate_recordset(NULL::{table.name}, CAST(:rows AS jsonb))"
        statement = text(f"INSERT INTO {table.name} {query} {on_conflict}")
        connection.execute(statement, {"rows": orjson.dumps(rows).decode()})


@cache
def adding(table: Table) -> str:
    """The clause of an INSERT that adds a row to the one of the same key; of texts, the last one stays."""
    key = ", ".join(column.name for column in table.primary_key)
    changes = [
        f"{name} = excluded.{name}"
        if isinstance(column.type, Text)
        else f"{name} = {table.name}.{name} + excluded.{name}"
        for name, column in table.columns.items()
        if not column.primary_key
    ]
    return f"ON CONFLICT ({key}) DO UPDATE SET {', '.join(changes)}"
