"""The one way to Postgres: a read-only connection pool, and its failures in words for an operator.

In: SQL text with named parameters. Out: DataFrames. Knows nothing of what is asked.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError, SQLAlchemyError

# A dashboard must never hold up the ledger: it cannot write, and gives up on a scan that takes too long.
_SESSION = "-c default_transaction_read_only=on -c statement_timeout=30000 -c timezone=UTC"


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
    try:
        with engine.connect() as connection:
            result = connection.execute(text(sql), parameters)
            return pd.DataFrame(result.fetchall(), columns=list(result.keys()))
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
