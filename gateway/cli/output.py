"""What commands print: tables for people, JSON for programs, one line on stderr for a refusal.

In: plain values. Out: text. Wraps and colours only on a terminal; piped output keeps whole lines.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import typer


class Refused(Exception):
    """A command cannot do what was asked; the message says why and what to do."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str) -> None:
    """A table, or `empty` when there are no rows. On a pipe: tab-separated, with a head line."""
    rows = [[shown(cell) for cell in row] for row in rows]
    if not rows:
        typer.echo(empty)
    elif not sys.stdout.isatty():
        typer.echo("\n".join("\t".join(row) for row in [list(columns), *rows]))
    else:
        _rich_table(columns, rows)


def print_fields(fields: Mapping[str, Any]) -> None:
    """One `name  value` line each, names in one column."""
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        typer.echo(f"{name:<{width}}  {shown(value)}")


def shown(value: Any) -> str:
    """A value as people read it; None is a dash."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def print_error(message: str) -> None:
    typer.echo(message, err=True)


def leave(exit_code: int) -> NoReturn:
    raise typer.Exit(exit_code)


def _rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(table)
