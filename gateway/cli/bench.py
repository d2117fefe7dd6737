"""`sparkgate bench`: what measures, and what reads measurements back; each command is in a file of its own."""

from __future__ import annotations

import typer

from gateway.cli import bench_compare, bench_engine, bench_gateway, bench_models, bench_routing


def register(app: typer.Typer) -> None:
    bench = typer.Typer(help="Measure, keep the results, and compare them.", no_args_is_help=True)
    bench.callback()(_group)
    bench.command("models")(bench_models.models)
    bench.command("engine")(bench_engine.engine)
    bench.command("gateway")(bench_gateway.gateway)
    bench.command("routing")(bench_routing.routing)
    bench.command("compare")(bench_compare.compare)
    bench.command("list")(bench_compare.list_runs)
    app.add_typer(bench, name="bench")


def _group() -> None:
    """Measure, keep the results, and compare them."""
