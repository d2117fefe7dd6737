"""`sparkgate up`: everything on this machine, kept running until Ctrl-C."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli import options

Host = Annotated[str | None, typer.Option(help="Address to listen on.", show_default="host of the file")]
Port = Annotated[int | None, typer.Option(help="Of the gateway; 0 takes a free one.", min=0, max=65535)]
Workers = Annotated[int | None, typer.Option(help="Gateway processes sharing the port.", min=1, max=64)]


def register(app: typer.Typer) -> None:
    app.command("up")(up)


def up(
    config: options.Config = None,
    policy: options.Policy = None,
    data_dir: options.DataDir = options.DATA_DIR,
    host: Host = None,
    port: Port = None,
    engine_port: Annotated[int | None, typer.Option(help="Of the bundled engine.", min=1, max=65535)] = None,
    dashboard_port: Annotated[int | None, typer.Option(help="Of the dashboard.", min=1, max=65535)] = None,
    workers: Workers = None,
    no_engine: Annotated[bool, typer.Option("--no-engine", help="Do not start the bundled engine.")] = False,
    no_dashboard: Annotated[bool, typer.Option("--no-dashboard", help="Do not start the dashboard.")] = False,
) -> None:
    """Start Postgres, migrations, engine, gateway, drain and dashboard, and keep them running.

    Values given here win over the files. Ctrl-C stops all; streams in flight may finish, a second Ctrl-C cuts
    them off.
    """
    from gateway.supervise import main
    from gateway.supervise.options import Options

    chosen = Options(
        config=config,
        policy=policy,
        data_dir=data_dir,
        host=host,
        port=port,
        engine_port=engine_port,
        dashboard_port=dashboard_port,
        workers=workers,
        engine=not no_engine,
        dashboard=not no_dashboard,
    )
    raise typer.Exit(main.up(chosen))
