"""`sparkgate bench models`: how fast, how steady and how dear model names are, measured on the running gateway.

In: options. Out: a table (or JSON on stdout), a progress bar on stderr, a row of `bench_runs`.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli import bench_engine, bench_gateway, bench_routing, bench_runs, options, running
from gateway.cli.output import Refused, leave, print_error, print_json, print_table
from gateway.config.variables import API_KEY_VARIABLE

if TYPE_CHECKING:
    from gateway.bench.models import Plan
    from gateway.bench.samples import ModelReport, Percentiles, Sample


def register(app: typer.Typer) -> None:
    bench = typer.Typer(help="Measure, and keep the results.", no_args_is_help=True)
    bench.callback()(_group)
    bench.command("models")(models)
    bench.command("engine")(bench_engine.engine)
    bench.command("gateway")(bench_gateway.gateway)
    bench.command("routing")(bench_routing.routing)
    app.add_typer(bench, name="bench")


def _group() -> None:
    """Measure, and keep the results."""


def models(
    names: Annotated[list[str], typer.Argument(metavar="MODEL…", help="Model names: auto, a target, …")],
    runs: Annotated[int, typer.Option(min=1, max=10_000, help="Calls per model.")] = 30,
    prompt: Annotated[str | None, typer.Option(help="The same for every call.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 128,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Calls at once.")] = 1,
    timeout_s: Annotated[float, typer.Option(min=1, help="Give up on a call after this.")] = 300,
    url: Annotated[
        str | None, typer.Option(help="Of the gateway.", show_default="host and port of sparkgate.yaml")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help=f"Default: {API_KEY_VARIABLE}, else the first key.")
    ] = None,
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """Call models with one prompt again and again, in turn; print percentiles, error rate and cost."""
    from gateway.bench.models import DEFAULT_PROMPT, Plan
    from gateway.bench.samples import reports

    plan = Plan(
        url=(url or running.gateway_url(config)).rstrip("/"),
        models=tuple(dict.fromkeys(names)),
        runs=runs,
        prompt=prompt or DEFAULT_PROMPT,
        max_tokens=max_tokens,
        concurrency=concurrency,
        timeout_s=timeout_s,
        api_key=api_key or running.api_key(data_dir),
    )
    started_at = datetime.now(UTC)
    samples, interrupted = _measured(plan)
    if samples:
        samples, database_url, problem = _priced(samples, config, data_dir)
        found = reports(samples, plan.models)
        run = _as_json(plan, started_at.isoformat(), interrupted, found, samples)
        if database_url is not None:
            results = {"models": run["models"], "samples": run["samples"]}
            problem = bench_runs.stored(database_url, "models", started_at, run["settings"], results)
        _show(run | {"stored": problem is None, "not_stored_because": problem}, found, as_json)
    if interrupted:
        leave(bench_runs.INTERRUPTED)


def _measured(plan: Plan) -> tuple[list[Sample], bool]:
    """All samples, and whether the run was ended by Ctrl-C: then those there are."""
    from gateway.bench.models import GatewayUnreachable, measure

    samples: list[Sample] = []
    try:
        with bench_runs.progress(plan.runs * len(plan.models)) as advance:

            def keep(sample: Sample) -> None:
                samples.append(sample)
                failed = sum(it.error_code is not None for it in samples)
                advance(f"{sample.model}, {failed} failed" if failed else sample.model)

            asyncio.run(measure(plan, keep))
    except GatewayUnreachable as error:
        raise Refused(str(error)) from None
    except KeyboardInterrupt:
        print_error(f"Interrupted after {len(samples)} of {plan.runs * len(plan.models)} calls.")
        return samples, True
    return samples, False


def _priced(
    samples: list[Sample], config: Path | None, data_dir: Path
) -> tuple[list[Sample], str | None, str | None]:
    """(samples with what the ledger says they cost, the database's URL, why there is none)."""
    from sqlalchemy.exc import SQLAlchemyError

    from gateway.bench import store
    from gateway.bench.samples import with_costs
    from gateway.cli.errors import message_of
    from gateway.ledger.errors import LedgerError

    try:
        database_url = bench_runs.database_url(config, data_dir)
        ours = [it.request_id for it in samples if it.request_id and _is_ours(it.request_id)]
        known = store.costs_usd(database_url, ours)
        return with_costs(samples, known), database_url, None
    except (LedgerError, SQLAlchemyError) as error:
        return samples, None, message_of(error) or str(error)


def _is_ours(request_id: str) -> bool:
    from uuid import UUID

    try:
        return bool(UUID(request_id.removeprefix("req_")))
    except ValueError:
        return False


def _as_json(
    plan: Plan, started_at: str, interrupted: bool, found: list[ModelReport], samples: list[Sample]
) -> dict[str, Any]:
    from dataclasses import asdict

    settings = asdict(plan) | {"interrupted": interrupted}
    del settings["api_key"]
    return {
        "started_at": started_at,
        "settings": settings,
        "models": [report.as_json() for report in found],
        "samples": [asdict(sample) for sample in samples],
    }


def _show(run: dict[str, Any], found: list[ModelReport], as_json: bool) -> None:
    if as_json:
        print_json(run)
    else:
        columns = ["model", "n", "TTFT p50", "p95", "p99", "completion p50", "p95", "p99", "tokens/s p50"]
        columns += ["errors", "targets", "cost USD"]
        print_table(columns, [_row(report) for report in found], "Nothing was measured.")
        if any(report.total_s.too_few_for or report.ttft_s.too_few_for for report in found):
            print("* too few samples to rely on: p95 needs 20, p99 needs 100. Times are in seconds.")
    if run["not_stored_because"]:
        print_error(f"The run was not stored: {run['not_stored_because']}")
    sys.stdout.flush()


def _row(report: ModelReport) -> list[str]:
    errors = "0 %"
    if report.errors:
        codes = ", ".join(f"{code} {count}" for code, count in sorted(report.errors.items()))
        errors = f"{100 * report.error_rate:.1f} % ({codes})"
    speed = report.tokens_per_s.p50
    return [
        report.model,
        str(report.calls),
        *_cells(report.ttft_s),
        *_cells(report.total_s),
        "-" if speed is None else f"{speed:.1f}",
        errors,
        ", ".join(f"{name} {count}" for name, count in report.targets.items()) or "-",
        _cost(report),
    ]


def _cells(found: Percentiles) -> list[str]:
    values = {"p50": found.p50, "p95": found.p95, "p99": found.p99}
    return [
        "-" if value is None else f"{value:.3f}{'*' if name in found.too_few_for else ''}"
        for name, value in values.items()
    ]


def _cost(report: ModelReport) -> str:
    if report.cost_usd is None:
        return "unknown"
    known = f"{report.cost_usd:.6f}"
    return f"≥ {known} ({report.unpriced} unknown)" if report.unpriced else known
