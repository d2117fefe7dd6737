"""`sparkgate bench engine`: our engine, plain and with drafters, beside transformers and llama.cpp.

In: options. Out: tables (or JSON on stdout), pictures, a progress bar on stderr, a row of `bench_runs`.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli import bench_cost, bench_runs, options
from gateway.cli.output import Refused, leave, print_error, print_json, print_table

if TYPE_CHECKING:
    from gateway.bench.engine.measure import Plan
    from gateway.bench.engine.traces import Wave
    from gateway.bench.engine.variants import Setup

KEPT = ("figures", "ratios", "matches", "waves", "notes", "interrupted")  # of a run, beside its settings

_AS_CONFIGURED = "as sparkgate.yaml says"


def engine(
    streams: Annotated[str, typer.Option(help="Answers at once, a cell each.", metavar="N,…")] = "1,4,8,16",
    kinds: Annotated[str, typer.Option(help="Of prompts.", metavar="KIND,…")] = "code,math,chat,json",
    tokens: Annotated[int, typer.Option(min=2, max=4096, help="Length of an answer.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Of everything; medians are told.")] = 3,
    baselines: Annotated[
        str, typer.Option(help="What to compare with, or none.", metavar="NAME,…")
    ] = "transformers,llama.cpp",
    url: Annotated[
        str | None,
        typer.Option(help="Of a running engine.", show_default="start one for the benchmark", metavar="URL"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Name, folder or Hugging Face id.", show_default=_AS_CONFIGURED, metavar="MODEL"),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Number format of our engine.", show_default=_AS_CONFIGURED)
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, auto.", show_default=_AS_CONFIGURED)] = None,
    drafter: Annotated[
        str | None,
        typer.Option(
            help="What drafts for our engine, an engine each.", metavar="NAME,…", show_default=_AS_CONFIGURED
        ),
    ] = None,
    modes: Annotated[
        str, typer.Option(help="How drafts are verified: off, auto, fixed, static.", metavar="MODE,…")
    ] = "off,auto",
    draft_schedule: Annotated[
        str | None,
        typer.Option(
            help="Of auto: prefix, delayed; an engine each.", metavar="NAME,…", show_default=_AS_CONFIGURED
        ),
    ] = None,
    draft_confidence: Annotated[
        float, typer.Option(min=0, max=1, help="Of static: a draft ends before a token less sure.")
    ] = 0.0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of every side.", show_default="one a core")
    ] = None,
    llama_python: Annotated[
        Path | None, typer.Option(help="A Python that has the wheel xllamacpp.", metavar="FILE")
    ] = None,
    llama_server: Annotated[
        Path | None, typer.Option(help="A build of llama.cpp's llama-server.", metavar="FILE")
    ] = None,
    gguf: Annotated[
        Path | None,
        typer.Option(help="The model for llama.cpp.", metavar="FILE", show_default="in the data directory"),
    ] = None,
    cost: bench_cost.Cost = False,
    usd_per_hour: bench_cost.UsdPerHour = None,
    tokens_per_s: bench_cost.TokensPerS = None,
    stored_run: bench_cost.StoredRun = None,
    utilisation: bench_cost.Utilisation = "1,0.5,0.2",
    beside: bench_cost.Beside = None,
    input_per_output: bench_cost.InputPerOutput = 0.0,
    plot: Annotated[Path | None, typer.Option(help="Draw the rates.", metavar="FILE.svg")] = None,
    plot_verified: Annotated[
        Path | None, typer.Option(help="Draw how many drafts are verified.", metavar="FILE.svg")
    ] = None,
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """Decode the same prompts with our engine, transformers and llama.cpp in turn; print the rates."""
    asked = bench_cost.Asked(usd_per_hour, tokens_per_s, stored_run, utilisation, beside, input_per_output)
    bench_cost.check(cost, asked, config)
    if cost and asked.needs_no_measurement:
        bench_cost.reckon(asked, config, data_dir, as_json=as_json)
        return
    from gateway.bench.engine.chart import lengths, rates
    from gateway.bench.engine.measure import Plan
    from gateway.bench.engine.prompts import KINDS
    from gateway.bench.engine.report import figures, remarks
    from gateway.bench.engine.variants import BASELINES, Setup
    from gateway.bench.engine.ways import MODES, SCHEDULES, ways
    from gateway.bench.machine import describe

    pictures = {"--plot": (plot, rates), "--plot-verified": (plot_verified, lengths)}
    for option, (file, _) in pictures.items():
        bench_runs.check_picture(option, file)
    plan = Plan(_names("--kinds", kinds, KINDS), _numbers("--streams", streams), tokens, rounds)
    settings = options.loaded_deployment(config).deployment.engine
    schedules = _names("--draft-schedule", draft_schedule or settings.draft_schedule, SCHEDULES)
    drafters = _parts(drafter or settings.drafter)
    if "" in drafters:
        raise Refused(f"--drafter: {drafter!r} has a comma too many")
    compared = ways(drafters, _names("--modes", modes, MODES), schedules)
    if url and len({(way.drafter, way.schedule) for way in compared}) > 1:
        raise Refused("--url: one engine runs there; name one drafter and one schedule at most")
    setup = Setup(
        model=model or settings.model,
        data_dir=data_dir.expanduser().resolve(),
        ways=compared,
        max_streams=max(plan.streams),
        tokens=tokens,
        url=url.rstrip("/") if url else None,
        dtype=dtype or settings.dtype,
        device=device or settings.device,
        draft_confidence=draft_confidence,
        threads=threads or settings.threads,
        baselines=() if baselines == "none" else _names("--baselines", baselines, BASELINES),
        llama_python=llama_python,
        llama_server=llama_server,
        gguf=gguf,
    )
    notes: list[str] = []
    started_at, machine = datetime.now(UTC), describe()
    waves, interrupted = _measured(plan, setup, notes)
    if waves:
        notes += remarks(waves, compared)
        begun = {"started_at": started_at.isoformat(), "machine": machine, "interrupted": interrupted}
        per_hour = bench_cost.hourly(asked, config) if cost else None
        measured = _as_json(plan, setup, waves, notes, per_hour)
        costs = bench_cost.reckoned(asked, measured["figures"], config) if cost else None
        run = begun | measured
        problem = bench_runs.kept(run, KEPT, "engine", started_at, config, data_dir)
        for file, draw in pictures.values():
            if file is not None:
                file.write_text(draw(figures(waves), f"sparkgate bench engine, {setup.model}"))
        if as_json:
            print_json(run | {"costs": costs, "stored": problem is None, "not_stored_because": problem})
        else:
            _show(run)
            if costs is not None:
                print()
                bench_cost.show(costs)
        if problem:
            print_error(f"The run was not stored: {problem}")
    if interrupted:
        leave(bench_runs.INTERRUPTED)


def _names(option: str, given: str, known: Sequence[str]) -> tuple[str, ...]:
    names = _parts(given)
    wrong = [name for name in names if name not in known]
    if wrong:
        raise Refused(f"{option}: {', '.join(map(repr, wrong))} is not among {', '.join(known)}")
    return names


def _parts(given: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in given.split(",")))


def _numbers(option: str, given: str) -> tuple[int, ...]:
    parts = [part.strip() for part in given.split(",")]
    if not all(part.isdecimal() and 0 < int(part) <= 1024 for part in parts):
        raise Refused(f"{option}: {given!r} is not a list of whole numbers from 1 to 1024, like 1,4,8")
    return tuple(dict.fromkeys(map(int, parts)))


def _measured(plan: Plan, setup: Setup, notes: list[str]) -> tuple[list[Wave], bool]:
    """All waves, and whether the run was ended by a signal: then those there are."""
    from gateway.bench.servers import NotStarted

    waves: list[Wave] = []
    try:
        asyncio.run(_measure(plan, setup, notes, waves))
    except NotStarted as error:
        raise Refused(f"the engine could not be started: {error}") from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        print_error(f"Interrupted after {len(waves)} waves of answers.")
        return waves, True
    return waves, False


async def _measure(plan: Plan, setup: Setup, notes: list[str], waves: list[Wave]) -> None:
    from gateway.bench.engine.measure import measure, warm_up
    from gateway.bench.engine.variants import opened

    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # our servers end with us
    async with opened(setup, notes, lambda doing: print_error(f"{doing} …")) as variants:
        print_error("warming up …")
        await warm_up(plan, variants, notes)
        with bench_runs.progress(plan.waves(len(variants))) as advance:

            def keep(wave: Wave) -> None:
                waves.append(wave)
                advance(f"{wave.kind} × {wave.streams}, {wave.variant}")

            await measure(plan, variants, keep)


def _as_json(
    plan: Plan, setup: Setup, waves: Sequence[Wave], notes: Sequence[str], cost_usd_per_hour: float | None
) -> dict[str, Any]:
    """`settings` and `results` as they are stored; the traces of the waves are summed up, not kept."""
    from dataclasses import asdict

    from gateway.bench.engine.matched import matches
    from gateway.bench.engine.report import figures, ratios

    found = figures(waves, cost_usd_per_hour)
    drafting = [way.name for way in setup.ways if way.drafts]
    chosen = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(setup).items()}
    return {
        "settings": {**asdict(plan), **chosen, "cost_usd_per_hour": cost_usd_per_hour},
        "figures": [asdict(each) for each in found],
        "ratios": [asdict(each) for each in ratios(waves, setup.ways)],
        "matches": [asdict(each) for name in drafting[:1] for each in matches(found, name)],
        "waves": [wave.as_json() for wave in waves],
        "notes": list(notes),
    }


def _show(run: dict[str, Any]) -> None:
    has_cost = run["settings"]["cost_usd_per_hour"] is not None
    columns = ["prompts", "streams", "engine", "tokens/s", "a stream", "TTFT p50 s", "verified", "accepted"]
    columns += ["USD/M tokens"] * has_cost
    print_table(columns, [_figures_row(each, has_cost) for each in run["figures"]], "Nothing was measured.")
    print()
    _show_ratios(run["ratios"])
    _show_matches(run["matches"])
    print()
    machine = run["machine"]
    print(f"{machine['processor']}, {machine['cores']} cores, load {machine['load']} before the start.")
    for note in run["notes"]:
        print(f"Note: {note}")


def _figures_row(each: dict[str, Any], has_cost: bool) -> list[str]:
    row = [each["kind"], str(each["streams"]), each["variant"]]
    row += [_written(each["decode_tokens_per_s"], 1), _written(each["stream_tokens_per_s"], 1)]
    row += [_written(each["ttft_p50_s"], 3)]
    row += [_written(each["verified_length"], 2), _written(each["accepted_length"], 2)]
    return row + [_written(each["usd_per_mtok"], 2)] * has_cost


def _show_ratios(ratios: Sequence[dict[str, Any]]) -> None:
    """A row a cell and way of ours, a column a rival; where several could stand for it, with the one that did."""
    from gateway.bench.engine.report import FLOOR

    cells: dict[tuple[str, int, str], dict[str, str]] = {}
    for each in ratios:
        which = "" if each["below"].endswith(each["against"]) else f" ({each['below']})"
        cell = cells.setdefault((each["kind"], each["streams"], each["above"]), {})
        cell[each["against"]] = _written(each["times"], 2) + which
    rivals = list(dict.fromkeys(rival for row in cells.values() for rival in row))
    columns = ["prompts", "streams", "engine", *(f"/ {rival}" for rival in rivals)]
    rows = [
        [kind, str(streams), way, *(row.get(rival, "-") for rival in rivals)]
        for (kind, streams, way), row in cells.items()
    ]
    print_table(columns, rows, "Nothing to compare with.")
    known = [each for each in ratios if each["against"] == FLOOR and each["times"] is not None]
    if known:
        worst = min(known, key=lambda each: each["times"])
        where, pair = f"{worst['kind']} × {worst['streams']}", f"{worst['above']} / {worst['below']}"
        print(f"Worst of / {FLOOR}: {worst['times']:.2f}, {where}, {pair}.")


def _show_matches(matches: Sequence[dict[str, Any]]) -> None:
    """A row for each pair and kind of prompts: how many times as fast a stream is at the same total."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for each in matches:
        row = rows.setdefault((each["kind"], each["above"], each["below"]), [])
        row.append(f"{each['times']:.2f} at {each['decode_tokens_per_s']:.0f}/s")
    if rows:
        print()
        columns = ["prompts", "a stream at the same total", "lowest", "median", "highest"]
        print_table(
            columns, [[kind, f"{above} / {below}", *row] for (kind, above, below), row in rows.items()], ""
        )


def _written(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
