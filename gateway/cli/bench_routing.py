"""`sparkgate bench routing`: our routing beside other strategies, in a simulated world with virtual time.

In: options. Out: tables (or JSON on stdout), a picture, a row of `bench_runs`, a progress bar on stderr.
"""

from __future__ import annotations

import signal
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli import bench_runs, options
from gateway.cli.output import leave, print_error, print_json, print_table

if TYPE_CHECKING:
    from gateway.bench.routing.compare import Measured
    from gateway.bench.routing.report import Claim, Row, Spread
    from gateway.bench.routing.scenarios import Scenario

_ALL = "all"
_KEPT = ("rows", "claims", "notes", "interrupted")
_COLUMNS = {
    "p95_s": "p95 s",
    "window_p95_s": "in incidents",
    "timeout_rate": "timeouts",
    "window_timeout_rate": "in incidents",
    "failure_rate": "failures",
    "cost_per_completed_usd": "USD/completed",
    "explored_share": "explored",
    "left_s": "left after s",
    "left_calls": "calls",
    "back_s": "back after s",
    "warm_share": "newcomer",
}


def routing(
    scenarios: Annotated[str, typer.Option(help="Which worlds.", metavar="NAME,…")] = _ALL,
    strategies: Annotated[
        str, typer.Option(help="Which ways to route; the oracle is always run.", metavar="NAME,…")
    ] = _ALL,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Runs of each; medians are told.")] = 10,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that simulate.", show_default="one a core")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the figures.", metavar="FILE.svg")] = None,
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """Send the same simulated calls to the same simulated targets under each strategy; print what came of it.

    Nothing is called and no time is waited for: seeds decide all. Ours is the router that serves.
    """
    from gateway.bench.machine import cores, describe
    from gateway.bench.routing.chart import svg
    from gateway.bench.routing.report import claims, rows
    from gateway.bench.routing.scenarios import SCENARIOS
    from gateway.bench.routing.simulate import NAMES

    bench_runs.check_picture("--plot", plot)
    chosen = [SCENARIOS[name] for name in _chosen("--scenarios", scenarios, tuple(SCENARIOS))]
    ways = _chosen("--strategies", strategies, NAMES)
    started_at, machine = datetime.now(UTC), describe()
    found, notes, interrupted = _compared(chosen, ways, seeds, workers or cores())
    table, held = rows(found), claims(found, chosen)
    run: dict[str, Any] = {
        "settings": {"scenarios": [asdict(each) for each in chosen], "strategies": ways, "seeds": seeds},
        "machine": machine,
        "rows": [asdict(each) for each in table],
        "claims": [asdict(each) for each in held],
        "notes": notes,
        "interrupted": interrupted,
    }
    problem = (
        bench_runs.kept(run, _KEPT, "routing", started_at, config, data_dir) if found else "nothing was run"
    )
    if plot is not None:
        plot.write_text(svg(table, chosen, f"sparkgate bench routing, {seeds} seeds"))
    if as_json:
        stored = {"stored": problem is None, "not_stored_because": problem}
        print_json(run | stored | {"runs": [asdict(each) for each in found]})
    else:
        _show(table, held, notes)
    if problem:
        print_error(f"The run was not stored: {problem}")
    if interrupted:
        leave(bench_runs.INTERRUPTED)


def _chosen(option: str, given: str, known: tuple[str, ...]) -> list[str]:
    return list(known) if given == _ALL else bench_runs.chosen(option, given, known)


def _compared(
    scenarios: list[Scenario], ways: list[str], seeds: int, workers: int
) -> tuple[list[Measured], list[str], bool]:
    """What was measured, what there is to say of it, and whether it was ended by Ctrl-C."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from gateway.bench.routing.compare import Compared, compare

    jobs = [(scenario, seed) for scenario in scenarios for seed in range(1, seeds + 1)]
    found: list[Compared] = []
    left_to_us = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the workers too
    pool = ProcessPoolExecutor(workers, get_context("spawn"), signal.signal, left_to_us)
    try:
        with bench_runs.progress(len(jobs)) as advance:
            running = [pool.submit(compare, scenario, ways, seed) for scenario, seed in jobs]
            for (scenario, _), each in zip(jobs, running, strict=True):
                found.append(each.result())
                advance(scenario.name)
    except KeyboardInterrupt:
        print_error(f"Interrupted after {len(found)} of {len(jobs)} comparisons.")
    finally:
        pool.shutdown(cancel_futures=True)
    notes = dict.fromkeys(note for each in found for note in each.notes)
    return [one for each in found for one in each.runs], list(notes), len(found) < len(jobs)


def _show(table: list[Row], held: list[Claim], notes: list[str]) -> None:
    columns = ["scenario", "strategy", *_COLUMNS.values()]
    cells = [
        [row.scenario, row.strategy, *(_spread(getattr(row, name)) for name in _COLUMNS)] for row in table
    ]
    print_table(columns, cells, "Nothing was measured.")
    print()
    _show_shapes(table)
    print()
    verdicts = {True: "holds", False: "MISSED", None: "-"}
    lines = [
        [each.scenario, each.what, f"{each.limit:.3g}", _spread(each.found), verdicts[each.holds]]
        for each in held
    ]
    print_table(
        ["scenario", "what should hold", "limit", "found", ""], lines, "Nothing to hold was measured."
    )
    for each in held:
        for note in each.notes[:5]:
            print(f"Note: {each.scenario}, {each.what}: {note}")
    for note in notes:
        print(f"Note: {note}")
    print("Medians over the seeds, lowest to highest in brackets. Times are in seconds of virtual time.")


def _show_shapes(table: list[Row]) -> None:
    """Completions by shape."""
    cells = [
        [row.scenario, row.strategy, shape, *(_spread(found[name]) for name in ("p50", "p95", "p99"))]
        for row in table
        for shape, found in row.completion_s.items()
    ]
    print_table(["scenario", "strategy", "shape", "p50 s", "p95 s", "p99 s"], cells, "")


def _spread(found: Spread | None) -> str:
    if found is None:
        return "-"
    if found.low == found.high:
        return f"{found.median:.3g}"
    return f"{found.median:.3g} ({found.low:.3g}–{found.high:.3g})"
