"""`sparkgate doctor`: looks at everything a start needs and says what stands in the way.

Changes nothing. Exit code 1 when something must be put right. The checks themselves are in `cli.checks`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from gateway.cli import options
from gateway.cli.manual import BOTH_FILES, NOTHING, manual
from gateway.cli.output import leave, print_json, print_table

if TYPE_CHECKING:
    from gateway.cli.checks_data import Check

_COLOURS = {"ok": "green", "note": "yellow", "wrong": "red"}


def register(app: typer.Typer) -> None:
    about = manual(
        "sparkgate doctor",
        "sparkgate doctor --json",
        reads=f"{BOTH_FILES}; the data directory, the database, the ports, and each target's list of models",
        writes=NOTHING,
        exits={0: "nothing is wrong", 1: "something is"},
    )
    app.command("doctor", epilog=about)(doctor)


def doctor(
    config: options.Config = None,
    policy: options.Policy = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """Check machine, files, targets, database, disk, ports and what runs, and say what to do.

    Every target with an address is asked for its list of models, once. `note` works but is worth knowing, `wrong`
    stands in the way.
    """
    from gateway.cli.checks import all_checks

    checks = all_checks(config, policy, data_dir.expanduser())
    if as_json:
        print_json([check._asdict() for check in checks])
    elif sys.stdout.isatty():
        _print_coloured(checks)
    else:
        print_table(("check", "state", "finding"), [(c.name, c.state, c.finding) for c in checks], "")
    if any(check.state == "wrong" for check in checks):
        leave(1)


def _print_coloured(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        table.add_row(check.name, Text(check.state, style=_COLOURS[check.state]), Text(check.finding))
    Console(highlight=False).print(table)
