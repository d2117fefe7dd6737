"""What benchmarks share: the bar while they run, and where a finished one is kept (the ledger's database, if any).

In: a run as JSON values. Out: None once it is a row of `bench_runs`, else why it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from gateway.cli import options


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A function that moves the bar on stderr by one and says what was measured."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("measuring", total=total)
        yield lambda measured: bar.update(task, advance=1, description=measured)


def kept(
    run: dict[str, Any],
    names: Iterable[str],
    kind: str,
    started_at: datetime,
    config: Path | None,
    data_dir: Path,
) -> str | None:
    """`stored`, with those results of a run, on its settings and its machine."""
    from gateway.cli.errors import message_of
    from gateway.ledger.errors import LedgerError

    try:
        url = database_url(config, data_dir)
    except LedgerError as error:
        return message_of(error)
    settings = run["settings"] | {"machine": run["machine"]}
    return stored(url, kind, started_at, settings, {name: run[name] for name in names})


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
