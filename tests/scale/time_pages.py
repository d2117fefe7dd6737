"""How long every page of the dashboard takes on a loaded database: `python -m tests.scale.time_pages --data-dir DIR`.

In: a database that `load` filled. Out: a table, page × span: milliseconds of SQL, its statements, and milliseconds of
all that the page's script does, each the median of five drawings after one that warms the database. "Now" is
the moment the load ends at.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from statistics import median

from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from dashboard.spans import SPANS
from gateway.ledger.database import create_engine
from tests.dashboard.drawn import PAGES, draw
from tests.scale.load import add_database, database

_TIMES = 5
_SPANLESS = ("benchmarks", "exchange")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.scale.time_pages")
    add_database(parser)
    parser.add_argument("--pages", nargs="*", choices=PAGES, default=list(PAGES))
    arguments = parser.parse_args()
    table = Table("page", "span", *(("SQL ms", "statements", "slowest ms", "page ms")))
    with database(arguments) as url:
        now, newest = _end(url)
        for name in arguments.pages:
            for span in ("",) if name in _SPANLESS else SPANS:
                query = {"id": newest} if name == "exchange" else {"span": span} if span else {}
                table.add_row(name, span, *_timed(url, name, now, query))
    Console(width=100).print(table)


def _end(url: str) -> tuple[datetime, str]:
    """When the load ends, and the request id of its newest call."""
    engine = create_engine(url)
    with engine.connect() as connection:
        last = connection.scalar(text("SELECT max(at) FROM call_sums")).astimezone(UTC)
        newest = text("SELECT id FROM exchanges WHERE id >= uuid_floor(:last) ORDER BY id DESC LIMIT 1")
        key = connection.scalar(newest, {"last": last})
    engine.dispose()
    return last + timedelta(minutes=1), f"req_{key.hex}"


def _timed(url: str, name: str, now: datetime, query: dict[str, str]) -> tuple[str, ...]:
    drawings = [draw(url, name, now, **query) for _ in range(_TIMES + 1)][1:]
    slowest = [max(it.took_s for it in drawing.statements) for drawing in drawings]
    figures = (
        median(it.sql_s for it in drawings),
        len(drawings[0].statements),
        median(slowest),
        median(it.took_s for it in drawings),
    )
    return tuple(f"{it:,}" if isinstance(it, int) else f"{1000 * it:,.0f}" for it in figures)


if __name__ == "__main__":
    main()
