"""`sparkgate bench gateway`: what our gateway costs, beside other gateways and none at all.

In: options. Out: tables (or JSON on stdout), a picture, a progress bar on stderr, a row of `bench_runs`.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli import bench_runs, options
from gateway.cli.output import Refused, leave, print_error, print_json, print_table

if TYPE_CHECKING:
    from gateway.bench.gateway.contestant import Setup
    from gateway.bench.gateway.measure import Plan
    from gateway.bench.gateway.readings import Reading, Sustained

KEPT = (
    "figures",
    "parts",
    "ratios",
    "sustained",
    "readings",
    "notes",
    "interrupted",
)  # of a run, beside its settings

_COLUMNS = {
    "contestant": "contestant",
    "start_s": "start s",
    "rss_mb": "RSS MB",
    "calls_per_s": "calls/s",
    "cpu_us_per_call": "CPU µs/call",
    "added_ms_p50": "added ms p50",
    "added_ms_p99": "p99",
    "streams_per_s": "streams/s",
    "cpu_us_per_stream": "CPU µs/stream",
    "added_ttft_ms_p50": "added TTFT ms p50",
    "added_ttft_ms_p99": "p99",
}


@dataclass
class _Found:
    """What there is so far: an interrupted run keeps it."""

    readings: list[Reading] = field(default_factory=list)
    starts_s: dict[str, float | None] = field(default_factory=dict)
    sustained: Sustained | None = None
    notes: list[str] = field(default_factory=list)


def gateway(
    contestants: Annotated[
        str, typer.Option(help="Besides straight, which is always measured.", metavar="NAME,…")
    ] = "nginx,bare,sparkgate,litellm,portkey",
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="Of calls, a cell.")] = 3.0,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Of everything; medians are told.")] = 3,
    litellm_python: Annotated[
        Path | None, typer.Option(help="A Python that has LiteLLM's proxy.", metavar="FILE")
    ] = None,
    portkey: Annotated[
        Path | None, typer.Option(help="start-server.js of @portkey-ai/gateway.", metavar="FILE")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the figures.", metavar="FILE.svg")] = None,
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """Send the same calls through gateways in turn, to an upstream that answers at once; print what they cost.

    Each runs one worker on one core. The other core has the upstream, the load generator, and of ours the drain
    and Postgres.
    """
    from gateway.bench.gateway.chart import svg
    from gateway.bench.gateway.contestant import Setup
    from gateway.bench.gateway.measure import Plan
    from gateway.bench.gateway.readings import NAMES
    from gateway.bench.gateway.report import figures
    from gateway.bench.machine import describe

    bench_runs.check_picture("--plot", plot)
    setup = Setup(tuple(bench_runs.chosen("--contestants", contestants, NAMES)), litellm_python, portkey)
    plan = Plan(seconds, rounds)
    started_at, machine = datetime.now(UTC), describe()
    found, interrupted = _measured(setup, plan)
    if found.readings:
        begun = {"started_at": started_at.isoformat(), "machine": machine, "interrupted": interrupted}
        run = begun | _as_json(plan, setup, found)
        problem = bench_runs.kept(run, KEPT, "gateway", started_at, config, data_dir)
        if plot is not None:
            plot.write_text(svg(figures(found.readings, found.starts_s), "sparkgate bench gateway"))
        if as_json:
            print_json(run | {"stored": problem is None, "not_stored_because": problem})
        else:
            _show(run)
        if problem:
            print_error(f"The run was not stored: {problem}")
    if interrupted:
        leave(bench_runs.INTERRUPTED)


def _measured(setup: Setup, plan: Plan) -> tuple[_Found, bool]:
    """What was found, and whether the run was ended by a signal."""
    from gateway.bench.gateway.programs import NoProgram
    from gateway.bench.gateway.traffic import BenchFailed
    from gateway.bench.servers import NotStarted

    found = _Found()
    try:
        asyncio.run(_measure(setup, plan, found))
    except (NoProgram, NotStarted, BenchFailed) as error:
        raise Refused(f"the benchmark cannot go on: {error}") from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        print_error(f"Interrupted after {len(found.readings)} readings.")
        return found, True
    return found, False


async def _measure(setup: Setup, plan: Plan, found: _Found) -> None:
    from gateway.bench.gateway.contestants import opened
    from gateway.bench.gateway.measure import measure, sustain, warm_up

    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # our processes end with us
    async with opened(setup, found.notes, lambda doing: print_error(f"{doing} …")) as (bench, contestants):
        found.starts_s.update((each.name, each.start_s) for each in contestants)
        print_error("warming up …")
        await warm_up(bench, contestants, plan.seconds)
        with bench_runs.progress(plan.readings(contestants)) as advance:

            def keep(reading: Reading) -> None:
                found.readings.append(reading)
                advance(f"{reading.cell}, {reading.contestant}")

            await measure(bench, contestants, plan, keep)
        found.sustained = await sustain(bench, contestants, plan)


def _as_json(plan: Plan, setup: Setup, found: _Found) -> dict[str, Any]:
    from dataclasses import asdict

    from gateway.bench.gateway.readings import CELLS
    from gateway.bench.gateway.report import figures, parts, ratios, remarks

    sustained = found.sustained
    return {
        "settings": {**asdict(plan), "contestants": setup.names, "cells": [asdict(cell) for cell in CELLS]},
        "figures": [asdict(each) for each in figures(found.readings, found.starts_s)],
        "parts": [asdict(each) for each in parts(found.readings)],
        "ratios": [asdict(each) for each in ratios(found.readings)],
        "sustained": sustained and asdict(sustained) | {"drained_per_s": sustained.drained_per_s},
        "readings": [asdict(each) for each in found.readings],
        "notes": [*found.notes, *remarks(found.readings)],
    }


def _show(run: dict[str, Any]) -> None:
    rows = [[_written(each[name]) for name in _COLUMNS] for each in run["figures"]]
    print_table(list(_COLUMNS.values()), rows, "Nothing was measured.")
    _show_ours(run["parts"], run["sustained"])
    _show_ratios(run["ratios"])
    machine = run["machine"]
    print(f"\n{machine['processor']}, {machine['cores']} cores, load {machine['load']} before the start.")
    for note in run["notes"]:
        print(f"Note: {note}")


def _show_ours(parts: Sequence[dict[str, Any]], sustained: dict[str, Any] | None) -> None:
    if not parts:
        return
    print()
    names = ("name", "cpu_us_per_call", "cpu_us_per_stream", "rss_mb")
    columns = ["sparkgate", "CPU µs/call", "CPU µs/stream", "RSS MB"]
    print_table(columns, [[_written(part[name]) for name in names] for part in parts], "")
    if sustained:
        print(
            f"{sustained['calls_per_s']:.0f} calls/s for {2 * sustained['seconds']:g} s, "
            f"{sustained['drained_per_s']:.0f} records/s drained in the second half; "
            f"{sustained['backlog_middle']} records waited at its start, {sustained['backlog_end']} at its end."
        )


def _show_ratios(ratios: Sequence[dict[str, Any]]) -> None:
    """A row a pair, a column a figure."""
    if not ratios:
        return
    print()
    figures = [name for name in _COLUMNS if any(ratio["figure"] == name for ratio in ratios)]
    pairs: dict[str, dict[str, float]] = {}
    for each in ratios:
        pairs.setdefault(f"{each['above']} / {each['below']}", {})[each["figure"]] = each["times"]
    rows = [[pair, *(_written(times.get(name)) for name in figures)] for pair, times in pairs.items()]
    print_table(["ratio", *(_COLUMNS[name] for name in figures)], rows, "")


def _written(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
