"""`sparkgate up`: everything on this machine, kept running until Ctrl-C."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli import options
from gateway.cli.manual import BOTH_FILES, manual

Host = Annotated[str | None, typer.Option(help="Address to listen on.", show_default="host of the file")]
Port = Annotated[
    int | None,
    typer.Option(
        help="Of the gateway; 0 takes a free one.", min=0, max=65535, show_default="port of the file"
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Gateway processes sharing the port.", min=1, max=64, show_default="workers of the file"
    ),
]


def register(app: typer.Typer) -> None:
    about = manual(
        "sparkgate up",
        "sparkgate up --host 0.0.0.0 --port 80 --workers 4",
        "sparkgate up --no-engine --no-dashboard    # the gateway and its database alone",
        reads=f"{BOTH_FILES}; SPARKGATE_API_KEY, which becomes the first key; SPARKGATE_DATABASE_URL",
        writes="the data directory: pg/, spool/, models/, logs/, run/",
        exits={0: "stopped as asked", 1: "a part could not be started"},
    )
    app.command("up", epilog=about)(up)


def up(
    config: options.Config = None,
    policy: options.Policy = None,
    data_dir: options.DataDir = options.DATA_DIR,
    host: Host = None,
    port: Port = None,
    engine_port: Annotated[
        int | None,
        typer.Option(help="Of the bundled engine.", min=1, max=65535, show_default="engine_port of the file"),
    ] = None,
    dashboard_port: Annotated[
        int | None,
        typer.Option(help="Of the dashboard.", min=1, max=65535, show_default="dashboard_port of the file"),
    ] = None,
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
