"""`sparkgate gateway | engine | dashboard`: one part alone, for containers and machines of their own.

`gateway` supervises its workers and their drain; `engine` and `dashboard` become the process they start.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from gateway.cli import options
from gateway.cli.manual import BOTH_FILES, FILES, manual
from gateway.cli.up import Host, Port, Workers
from gateway.config.variables import GATEWAY_URL_VARIABLE, SIGN_IN_VARIABLE

PartHost = Annotated[str, typer.Option("--host", help="Address to listen on.")]


def register(app: typer.Typer) -> None:
    about = manual(
        "SPARKGATE_DATABASE_URL=postgresql://sparkgate@db/sparkgate sparkgate gateway --workers 4",
        reads=f"{BOTH_FILES}; a database with the tables of this version (`sparkgate db upgrade`)",
        writes="the data directory: spool/, logs/, run/; the ledger's database",
        exits={0: "stopped as asked", 1: "a worker or the drain could not be started"},
    )
    app.command("gateway", epilog=about)(gateway)
    about = manual(
        "sparkgate engine",
        "SPARKGATE_ENGINE_KEY=… sparkgate engine --host 0.0.0.0    # for gateways on other machines, with the same key",
        reads=f"{FILES} (its `engine` part); SPARKGATE_ENGINE_KEY, needed beyond loopback",
        writes="the data directory: models/, run/",
    )
    app.command("engine", epilog=about)(engine)
    about = manual(
        "sparkgate dashboard --port 8501",
        reads=f"{FILES}; the ledger's database; SPARKGATE_URL, SPARKGATE_ADMIN_URL and SPARKGATE_SIGN_IN",
        writes="nothing; policies are published by the gateway",
    )
    app.command("dashboard", epilog=about)(dashboard)


def gateway(
    config: options.Config = None,
    policy: options.Policy = None,
    data_dir: options.DataDir = options.DATA_DIR,
    host: Host = None,
    port: Port = None,
    workers: Workers = None,
) -> None:
    """Run the gateway's workers and their drain on a migrated database that runs elsewhere."""
    from gateway.supervise import main
    from gateway.supervise.options import Options

    chosen = Options(config, policy, data_dir, host=host, port=port, workers=workers)
    raise typer.Exit(main.gateway(chosen))


def engine(
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    host: PartHost = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(help="Of the engine.", min=1, max=65535, show_default="engine_port of the file"),
    ] = None,
) -> None:
    """Run the inference engine, with the model and settings of sparkgate.yaml."""
    from gateway.supervise.options import Options, make_plan
    from gateway.supervise.parts import engine_command

    plan = make_plan(Options(config, data_dir=data_dir, engine_port=port), os.environ)
    argv = engine_command(plan, host)
    os.execv(argv[0], argv)


def dashboard(
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    host: PartHost = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(help="Of the dashboard.", min=1, max=65535, show_default="dashboard_port of the file"),
    ] = None,
) -> None:
    """Run the dashboard. Who reaches it from another machine signs in with an API key of scope admin or read."""
    from gateway.ledger.database import resolve_url
    from gateway.supervise.options import Options, make_plan
    from gateway.supervise.parts import dashboard_command, dashboard_env, local_url

    plan = make_plan(Options(config, data_dir=data_dir, dashboard_port=port), os.environ)
    database_url = resolve_url(plan.deployment.database_url, plan.data_dir)
    argv = dashboard_command(host, plan.deployment.dashboard_port)
    told = dashboard_env(plan, database_url, local_url(plan.deployment.host, plan.deployment.port))
    given = {
        name: os.environ[name] for name in (GATEWAY_URL_VARIABLE, SIGN_IN_VARIABLE) if name in os.environ
    }
    os.execve(argv[0], argv, {**os.environ, **told, **given})
