"""The one way to Postgres: a read-only connection pool, and its failures in words for an operator.

In: SQL text with named parameters. Out: DataFrames. Knows nothing of what is asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError, SQLAlchemyError

# A dashboard must never hold up the ledger: it cannot write, and gives up on a scan that takes too long.
# Histograms are merged in memory; what is read here is over before it could be compiled.
_SESSION = "-c default_transaction_read_only=on -c statement_timeout=30000 -c timezone=UTC -c work_mem=32MB -c jit=off"


class LedgerUnavailable(Exception):
    """The database cannot answer now. `title` and `hint` are sentences for the operator."""

    def __init__(self, title: str, hint: str) -> None:
        super().__init__(title)
        self.title = title
        self.hint = hint


def connect(url: str) -> Engine:
    """A lazy pool; connections found dead after a restart of Postgres are replaced unseen."""
    try:
        return create_engine(
            url,
            pool_pre_ping=True,
            pool_size=4,
            connect_args={
                "options": _SESSION,
                "connect_timeout": 3,
                "application_name": "sparkgate dashboard",
            },
        )
    except (SQLAlchemyError, ImportError) as error:
        raise LedgerUnavailable(
            "SPARKGATE_DATABASE_URL is not a usable address",
            "It must look like postgresql+psycopg://user@host/database.",
        ) from error


def read(engine: Engine, sql: str, **parameters: Any) -> pd.DataFrame:
    """Rows as a DataFrame with the query's column names. Raises LedgerUnavailable."""
    return read_each(engine, sql, [parameters])


def read_each(
    engine: Engine, sql: str, each: Iterable[Mapping[str, Any]], most: float = math.inf
) -> pd.DataFrame:
    """The same of a statement that is run with one set of parameters after the other, until there are `most` rows."""
    columns: list[str] = []
    rows: list[Any] = []
    try:
        with engine.connect() as connection:
            for parameters in each:
                result = connection.execute(text(sql), parameters)
                columns, rows = list(result.keys()), [*rows, *result]
                if len(rows) >= most:
                    break
            return pd.DataFrame(rows, columns=columns)
    except ProgrammingError as error:
        raise _unusable(error) from error
    except OperationalError as error:
        raise _down(error) from error
    except DBAPIError as error:
        raise LedgerUnavailable("The ledger's database refused a query", _first_line(error)) from error


def _unusable(error: DBAPIError) -> LedgerUnavailable:
    if type(error.orig).__name__ in ("UndefinedTable", "UndefinedColumn", "UndefinedFunction"):
        return LedgerUnavailable(
            "The ledger's tables are missing or old", "Run `sparkgate db upgrade`. " + _first_line(error)
        )
    return LedgerUnavailable("The ledger's database refused a query", _first_line(error))


def _down(error: DBAPIError) -> LedgerUnavailable:
    if type(error.orig).__name__ == "QueryCanceled":
        return LedgerUnavailable("The query took more than 30 s", "Choose a shorter span.")
    return LedgerUnavailable("The ledger's database does not answer", _first_line(error))


def _first_line(error: DBAPIError) -> str:
    return (str(error.orig).strip() or type(error.orig).__name__).splitlines()[0]
