"""Fills a database with a month of realistic traffic: `python -m tests.scale.load --data-dir DIR --exchanges 10000000`.

In: an empty database (`--database-url`), or a folder for an embedded one (`--data-dir`), which runs for as long as the
load takes. Out: exchanges and attempts up to now, and all that the ledger keeps beside them, drawn from a seed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy import Connection, Engine, text

from gateway.ledger import embedded, migrate
from gateway.ledger.database import create_engine
from gateway.ledger.partitions import TABLES, ensure_partitions, partition_of
from tests.scale import around, calls, sums, world

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Load:
    """`calls` a day from `start` to `end`, more of them at noon than at midnight."""

    start: datetime
    end: datetime
    calls_a_day: int
    seed: int = 1

    @property
    def days(self) -> list[datetime]:
        first = self.start.replace(hour=0, minute=0, second=0, microsecond=0)
        return [first + DAY * number for number in range((self.end - first) // DAY + 1)]


def load(engine: Engine, wanted: Load) -> Iterator[datetime]:
    """Loads day by day, each in a transaction of its own, and says which is done."""
    with engine.connect() as connection:
        for setting in ("synchronous_commit = off", "work_mem = '256MB'", "timezone = 'UTC'", "jit = off"):
            connection.execute(text(f"SET {setting}"))
        _tell_world(connection)
        ensure_partitions(connection, [day.date() for day in [*wanted.days, wanted.end + DAY]])
        connection.commit()
        for number, day in enumerate(wanted.days):
            _load_day(connection, wanted, number, day)
            connection.commit()
            yield day
        around.write(connection, wanted.start, wanted.end)
        connection.commit()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM (ANALYZE)"))


def _load_day(connection: Connection, wanted: Load, number: int, day: datetime) -> None:
    values = {
        "day": day,
        "number": number * wanted.calls_a_day,
        "calls": wanted.calls_a_day,
        "start": wanted.start,
        "end": wanted.end,
        "seed": 1000 * wanted.seed,
        "policy_hash": world.POLICY_HASH,
        "first": day,
        "last": day + DAY,
        "after": day + 2 * DAY,
    } | sums.limits(wanted.end)
    connection.execute(text("DROP TABLE IF EXISTS calls"))
    parts = ", ".join(partition_of(table, day.date()).name for table in TABLES)
    made = (calls.CALLS, "ANALYZE calls", calls.EXCHANGES, calls.ATTEMPTS, f"ANALYZE {parts}")
    for statement in (*made, calls.TASKS, calls.OUTCOMES, *sums.OF_A_DAY):
        connection.execute(text(statement), values)


def _tell_world(connection: Connection) -> None:
    """The temporary tables that calls are joined with."""
    connection.execute(text(calls.FUNCTIONS))
    told_of = {"places": world.places(), "slots": world.slots(), "decisions": world.decisions()}
    for name, rows in told_of.items():
        listed = list(rows)
        columns = ", ".join(f"{key} {_type(value)}" for key, value in listed[0].items())
        connection.execute(text(f"CREATE TEMP TABLE {name} ({columns})"))
        given = f"jsonb_populate_recordset(CAST(NULL AS {name}), CAST(:rows AS jsonb))"
        told = {"rows": orjson.dumps(listed).decode()}
        connection.execute(text(f"INSERT INTO {name} SELECT * FROM {given}"), told)
        connection.execute(text(f"ANALYZE {name}"))


def _type(value: Any) -> str:
    kinds = {bool: "boolean", int: "int", float: "float8", list: "text[]", dict: "jsonb"}
    return kinds.get(type(value), "text")


@contextmanager
def database(arguments: argparse.Namespace) -> Iterator[str]:
    """The URL that the command line names; an embedded server runs for as long."""
    if arguments.database_url:
        yield arguments.database_url
    else:
        with embedded.running(arguments.data_dir) as url:
            yield url


def add_database(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--database-url")
    where.add_argument("--data-dir", type=Path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.scale.load")
    add_database(parser)
    parser.add_argument("--exchanges", type=int, default=10_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    end = datetime.now(UTC).replace(second=0, microsecond=0)
    start = end - arguments.days * DAY
    wanted = Load(start, end, arguments.exchanges // arguments.days, arguments.seed)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    began = time.monotonic()
    with database(arguments) as url, Progress(*columns) as progress:
        migrate.upgrade(url)
        engine = create_engine(url, application="sparkgate load")
        bar = progress.add_task("days", total=len(wanted.days))
        for day in load(engine, wanted):
            progress.update(bar, advance=1, description=f"{day:%d %b}")
        with engine.connect() as connection:
            size = connection.scalar(text("SELECT pg_size_pretty(pg_database_size(current_database()))"))
        engine.dispose()
    print(f"{wanted.calls_a_day * arguments.days:,} exchanges, {size}, {time.monotonic() - began:,.0f} s")


if __name__ == "__main__":
    main()
