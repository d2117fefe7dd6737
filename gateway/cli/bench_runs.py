"""What benchmarks share: checks of their options, the bar while they run, and where a finished one is kept.

In: a run as JSON values. Out: None once it is a row of `bench_runs` in the ledger's database, else why it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from gateway.cli import options
from gateway.cli.output import Refused

INTERRUPTED = 130  # the exit code after Ctrl-C


def chosen(option: str, given: str, known: Sequence[str]) -> list[str]:
    """The names of a list with commas, in the order in which they are known. Raises Refused for others."""
    names = {name.strip() for name in given.split(",")}
    if unknown := ", ".join(map(repr, sorted(names - set(known)))):
        raise Refused(f"{option}: {unknown} is not among {', '.join(known)}")
    return [name for name in known if name in names]


def check_picture(option: str, file: Path | None) -> None:
    """Raises Refused, before anything is measured, where the picture could not be written as it is named."""
    if file is None:
        return
    if file.suffix != ".svg":
        raise Refused(f"{option} {file}: the picture is an SVG; give it a name that ends in .svg")
    if not file.parent.is_dir():
        raise Refused(f"{option} {file}: there is no folder {file.parent}; make it first")


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
