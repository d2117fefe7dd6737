"""`sparkgate bench`: what measures, and what reads measurements back; each command is in a file of its own."""

from __future__ import annotations

import typer

from gateway.cli import bench_compare, bench_engine, bench_gateway, bench_models, bench_routing
from gateway.cli.manual import FILES, NOTHING, manual

_KEPT = "a row of bench_runs in the ledger's database; the pictures that are asked for"


def register(app: typer.Typer) -> None:
    bench = typer.Typer(help="Measure, keep the results, and compare them.", no_args_is_help=True)
    bench.callback()(_group)
    about = manual(
        "sparkgate bench models auto engine",
        "sparkgate bench models auto --runs 100 --prompts mine.jsonl --plot models.svg",
        "sparkgate bench models auto --every 30d    # stay, and say what has changed",
        reads=f"{FILES}; the running gateway, which is really called: targets that cost money, cost it here too",
        writes=_KEPT,
        exits={130: "interrupted; what was measured is kept"},
    )
    bench.command("models", epilog=about)(bench_models.models)
    about = manual(
        "sparkgate bench engine",
        "sparkgate bench engine --streams 1,8 --kinds code --baselines none --plot engine.svg",
        "sparkgate bench engine --cost --usd-per-hour 25 --tokens-per-s 4000,6680",
        reads=f"{FILES}; the model in the data directory; an engine is started unless --url names one",
        writes=_KEPT,
        exits={130: "interrupted; what was measured is kept"},
    )
    bench.command("engine", epilog=about)(bench_engine.engine)
    about = manual(
        "sparkgate bench gateway",
        "sparkgate bench gateway --contestants bare,sparkgate --rounds 1",
        reads="nothing; a database, an upstream and a load generator of its own are started",
        writes=_KEPT,
        exits={130: "interrupted; what was measured is kept"},
    )
    bench.command("gateway", epilog=about)(bench_gateway.gateway)
    about = manual(
        "sparkgate bench routing --seeds 10",
        "sparkgate bench routing --scenarios slowdown --seeds 1 --plot routing.svg",
        reads=NOTHING,
        writes=_KEPT,
        exits={130: "interrupted; what was simulated is kept"},
    )
    bench.command("routing", epilog=about)(bench_routing.routing)
    about = manual(
        "sparkgate bench compare latest~1 latest",
        "sparkgate bench compare engine@latest auto@latest --json",
        reads="files of --json, or a database that runs",
        writes=NOTHING,
    )
    bench.command("compare", epilog=about)(bench_compare.compare)
    about = manual("sparkgate bench list --kind models", reads="a database that runs", writes=NOTHING)
    bench.command("list", epilog=about)(bench_compare.list_runs)
    app.add_typer(bench, name="bench")


def _group() -> None:
    """Measure, keep the results, and compare them."""
