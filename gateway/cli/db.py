"""`sparkgate db upgrade|maintain`: the database's tables, and what keeps them small."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from gateway.cli import options
from gateway.cli.database import database
from gateway.cli.manual import LEDGER, manual
from gateway.cli.output import Refused, print_json


def register(app: typer.Typer) -> None:
    db = typer.Typer(help="The ledger's database.", no_args_is_help=True)
    about = manual(
        "sparkgate db upgrade",
        "READER_PASSWORD=… sparkgate db upgrade --reader-password-env READER_PASSWORD",
        reads=LEDGER,
        writes="the database's tables, and the role of the dashboard",
    )
    db.command("upgrade", epilog=about)(upgrade)
    about = manual(
        "sparkgate db maintain",
        "sparkgate db maintain --retention-days 30",
        reads=LEDGER,
        writes="the database: days past their retention are dropped for good",
    )
    db.command("maintain", epilog=about)(maintain)
    app.add_typer(db, name="db")


def upgrade(
    reader_password_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Environment variable with the password of the dashboard's role."),
    ] = None,
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """Bring the tables to this version; with --reader-password-env also make the role that only reads them.

    The role is `sparkgate_reader`; it gets the password that stands in the variable, and the right to read new tables.
    """
    from gateway.ledger import migrate
    from gateway.ledger.database import redact
    from gateway.ledger.reader_role import ROLE, reader_url

    password = _secret(reader_password_env) if reader_password_env is not None else None
    with database(config, data_dir) as url:
        migrate.upgrade(url)
        if password is not None:
            reader_url(url, password)
    reader = None if password is None else ROLE
    if as_json:
        print_json({"upgraded": True, "database": redact(url), "reader": reader})
        return
    typer.echo(f"The tables in {redact(url)} are those of this version.")
    if reader is not None:
        typer.echo(f"{reader} may read them, and nothing else.")


def _secret(variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        raise Refused(f"--reader-password-env: the environment variable {variable} is not set")
    return value


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
