"""Where a finished benchmark is kept: the ledger's database, if there is one.

In: a run as JSON values. Out: None once it is a row of `bench_runs`, else why it is not.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from gateway.cli import options


def database_url(config: Path | None, data_dir: Path) -> str:
    """Raises LedgerError when no database is known or runs."""
    from gateway.ledger.database import resolve_url

    return resolve_url(options.loaded_deployment(config).deployment.database_url, data_dir.expanduser())


def stored(url: str, kind: str, started_at: datetime, settings: Any, results: Any) -> str | None:
    """None when the run is in the database, else why not."""
    from sqlalchemy.exc import SQLAlchemyError

    from gateway.bench import store
    from gateway.cli.errors import message_of

    try:
        store.save(url, kind, started_at, settings, results)
    except SQLAlchemyError as error:
        return message_of(error) or str(error)
    return None
