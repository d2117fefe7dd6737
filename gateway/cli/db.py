"""`sparkgate db upgrade|maintain`: the database's tables, and what keeps them small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from gateway.cli import options
from gateway.cli.database import database
from gateway.cli.output import print_json


def register(app: typer.Typer) -> None:
    db = typer.Typer(help="The ledger's database.", no_args_is_help=True)
    db.command("upgrade")(upgrade)
    db.command("maintain")(maintain)
    app.add_typer(db, name="db")


def upgrade(
    config: options.Config = None, data_dir: options.DataDir = options.DATA_DIR, as_json: options.Json = False
) -> None:
    """Bring the tables to this version."""
    from gateway.ledger import migrate
    from gateway.ledger.database import redact

    with database(config, data_dir) as url:
        migrate.upgrade(url)
    if as_json:
        print_json({"upgraded": True, "database": redact(url)})
    else:
        typer.echo(f"The tables in {redact(url)} are those of this version.")


def maintain(
    retention_days: Annotated[
        int | None, typer.Option(min=1, show_default="ledger.retention_days", help="Days of calls to keep.")
    ] = None,
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """Drop days past their retention, make the next ones ready, merge old histograms and sums.

    A running gateway's drain does it every ten minutes.
    """
    from gateway.ledger.database import create_engine
    from gateway.ledger.maintain import lock
    from gateway.ledger.maintain import maintain as run

    keep_days = retention_days or options.loaded_deployment(config).deployment.ledger.retention_days
    with database(config, data_dir) as url:
        engine = create_engine(url, application="sparkgate db maintain")
        try:
            with engine.begin() as connection:
                lock(connection, wait=True)
                done = run(connection, datetime.now(UTC), keep_days)
        finally:
            engine.dispose()
    if as_json:
        print_json(asdict(done))
        return
    typer.echo(f"days dropped: {', '.join(done.dropped) or 'none'}")
    typer.echo(f"days made ready: {', '.join(done.made) or 'none'}")
    typer.echo(f"histograms merged: {_spans(done.histograms)}")
    typer.echo(f"sums merged: {_spans(done.sums)}")
    deleted = ", ".join(f"{rows:,} of {table}" for table, rows in done.deleted.items() if rows)
    typer.echo(f"old rows deleted: {deleted or 'none'}")


def _spans(made: Mapping[int, int]) -> str:
    names = {60: "a minute", 900: "a quarter of an hour", 3600: "an hour", 86_400: "a day"}
    return ", ".join(f"{rows:,} of {names[span_s]}" for span_s, rows in made.items())
