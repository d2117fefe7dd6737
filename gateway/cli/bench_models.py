"""`sparkgate bench models`: how fast, how steady and how dear model names are, measured on the running gateway.

In: options. Out: a table (or JSON on stdout), a progress bar on stderr, a row of `bench_runs`.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli import bench_compare, bench_runs, completion, options, running
from gateway.cli.output import Refused, leave, print_error, print_json, print_table

if TYPE_CHECKING:
    from gateway.bench.models import Plan
    from gateway.bench.prompts import Check, Prompt
    from gateway.bench.samples import ModelReport, Percentiles, Sample


def models(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL…", help="Model names: auto, a target, …", autocompletion=completion.models
        ),
    ],
    runs: Annotated[int, typer.Option(min=1, max=10_000, help="Calls per model, the prompts in turn.")] = 30,
    prompt: Annotated[str | None, typer.Option(help="One prompt for every call.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Prompts of your own: JSONL, perhaps with checks.",
            show_default="eight bundled ones",
        ),
    ] = None,
    run_code: Annotated[
        bool,
        typer.Option(
            "--run-code", help="Run code that models wrote, on this machine, where a check is a unit test."
        ),
    ] = False,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer, where a prompt says nothing.")
    ] = 256,
    stream: Annotated[
        bool, typer.Option(help="Stream the answers: without, there is no time to first token.")
    ] = True,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Calls at once.")] = 1,
    timeout_s: Annotated[float, typer.Option(min=1, help="Give up on a call after this.")] = 300,
    every: Annotated[
        str | None,
        typer.Option(
            help="Stay, and do it again each time so long has passed: 12h, 30d. Each run is compared with the last."
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Draw the figures.")] = None,
    url: options.Url = None,
    api_key: options.ApiKey = None,
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """Call models with the same prompts again and again, in turn; print percentiles, error rate, tokens/s and cost.

    Where prompts carry checks, also how many tasks were completed, and the cost of a completed one.
    """
    from gateway.bench.models import Plan

    every_s = None if every is None else _duration_s(every)
    if every_s is not None and as_json:
        raise Refused(
            "--every and --json: a run that never ends has no JSON; read it with `bench list` and `bench compare`"
        )
    bench_runs.check_picture("--plot", plot)
    plan = Plan(
        url=(url or running.gateway_url(config)).rstrip("/"),
        models=tuple(dict.fromkeys(names)),
        runs=runs,
        prompts=_prompts(prompt, prompts),
        max_tokens=max_tokens,
        stream=stream,
        concurrency=concurrency,
        timeout_s=timeout_s,
        api_key=api_key or running.api_key(data_dir),
    )
    if every_s is None:
        _once(plan, run_code, plot, config, data_dir, as_json)
    else:
        _again_and_again(plan, every_s, run_code, plot, config, data_dir)


def _prompts(prompt: str | None, file: Path | None) -> tuple[Prompt, ...]:
    from gateway.bench import prompts

    if prompt is not None and file is not None:
        raise Refused("--prompt and --prompts: give one of them")
    if prompt is not None:
        return prompts.one(prompt)
    try:
        return prompts.load() if file is None else prompts.load(file.expanduser())
    except prompts.PromptsRefused as error:
        raise Refused(str(error)) from None


def _once(
    plan: Plan, run_code: bool, plot: Path | None, config: Path | None, data_dir: Path, as_json: bool
) -> None:
    """One run: measured, judged, priced, stored, shown."""
    from gateway.bench.samples import reports

    started_at = datetime.now(UTC)
    samples, answers, interrupted = _measured(plan)
    if samples:
        samples = _judged(plan, samples, answers, run_code)
        samples, database_url, problem = _priced(samples, config, data_dir)
        found = reports(samples, plan.models)
        run = _as_json(plan, started_at.isoformat(), interrupted, found, samples)
        if database_url is not None:
            results = {"models": run["models"], "samples": run["samples"]}
            problem = bench_runs.stored(database_url, "models", started_at, run["settings"], results)
        if plot is not None:
            from gateway.bench.models_chart import svg

            plot.write_text(svg(found, f"sparkgate bench models, {plan.runs} calls a model"))
        _show(run | {"stored": problem is None, "not_stored_because": problem}, found, as_json)
    if interrupted:
        leave(bench_runs.INTERRUPTED)


def _again_and_again(
    plan: Plan, every_s: float, run_code: bool, plot: Path | None, config: Path | None, data_dir: Path
) -> None:
    """The time of the last run is in the database: a restart neither repeats a run nor leaves one out."""
    url = bench_runs.database_url(config, data_dir)
    try:
        while True:
            last = _like(plan, url)
            due = last[0]["started_at"].timestamp() + every_s if last else 0.0
            if (wait_s := due - time.time()) > 0:
                at = datetime.fromtimestamp(due).astimezone()
                print_error(f"The next run is due on {at:%Y-%m-%d at %H:%M}.")
                time.sleep(wait_s)
            _once(plan, run_code, plot, config, data_dir, as_json=False)
            both = _like(plan, url)
            if not both:
                raise Refused(
                    "the run is not in the database, so nobody knows when the next is due; `sparkgate doctor`"
                )
            if last and len(both) > 1:
                bench_compare.show(str(both[1]["id"]), str(both[0]["id"]), url)
    except KeyboardInterrupt:
        leave(bench_runs.INTERRUPTED)


def _like(plan: Plan, url: str) -> list[dict[str, Any]]:
    """The newest runs of just this plan, at most two."""
    from gateway.bench import store

    wanted = _settings(plan) | {"interrupted": False}
    runs = store.newest(url, "models", 500)
    return [
        run
        for run in runs
        if all(run["settings"].get(key) == wanted[key] for key in wanted if key != "machine")
    ][:2]


def _duration_s(given: str) -> float:
    """`90m`, `12h`, `30d` or `2w` in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", given.strip())
    seconds = float(found[1]) * {"m": 60, "h": 3600, "d": 86400, "w": 604800}[found[2]] if found else 0.0
    if seconds < 60:
        raise Refused(f"--every {given}: a number and m, h, d or w, at least 1m; for example 30d")
    return seconds


def _measured(plan: Plan) -> tuple[list[Sample], list[str], bool]:
    """All samples with their answers, and whether the run was ended by Ctrl-C: then those there are."""
    from gateway.bench.models import GatewayUnreachable, measure

    samples: list[Sample] = []
    answers: list[str] = []
    try:
        with bench_runs.progress(plan.runs * len(plan.models)) as advance:

            def keep(sample: Sample, answer: str) -> None:
                samples.append(sample)
                answers.append(answer)
                failed = sum(it.error_code is not None for it in samples)
                advance(f"{sample.model}, {failed} failed" if failed else sample.model)

            asyncio.run(measure(plan, keep))
    except GatewayUnreachable as error:
        raise Refused(str(error)) from None
    except KeyboardInterrupt:
        print_error(f"Interrupted after {len(samples)} of {plan.runs * len(plan.models)} calls.")
        return samples, answers, True
    return samples, answers, False


def _judged(plan: Plan, samples: list[Sample], answers: list[str], run_code: bool) -> list[Sample]:
    """Checks run once everything is measured, so that they take no time from it."""
    from gateway.bench.checks import passes
    from gateway.bench.samples import judged

    tests = sum(it.check is not None and it.check.kind == "unit_test" for it in plan.prompts)
    if tests and not run_code:
        print_error(
            f"{tests} of the prompts have a unit test, which was not run: --run-code runs what models wrote."
        )

    def verdict(check: Check, answer: str) -> bool | None:
        return None if check.kind == "unit_test" and not run_code else passes(check, answer)

    return judged(samples, answers, plan.prompts, verdict)


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

    return {
        "started_at": started_at,
        "settings": _settings(plan) | {"interrupted": interrupted},
        "models": [report.as_json() for report in found],
        "samples": [asdict(sample) for sample in samples],
    }


def _settings(plan: Plan) -> dict[str, Any]:
    """Which prompts were asked, but not their text."""
    from gateway.bench import machine, prompts

    return {
        "url": plan.url,
        "models": list(plan.models),
        "runs": plan.runs,
        "prompts": [prompt.name for prompt in plan.prompts],
        "prompts_hash": prompts.fingerprint(plan.prompts),
        "max_tokens": plan.max_tokens,
        "stream": plan.stream,
        "concurrency": plan.concurrency,
        "timeout_s": plan.timeout_s,
        "machine": machine.describe(),
    }


def _show(run: dict[str, Any], found: list[ModelReport], as_json: bool) -> None:
    if as_json:
        print_json(run)
    else:
        columns = ["model", "n", "TTFT p50", "p95", "p99", "completion p50", "p95", "p99", "tokens/s p50"]
        columns += ["errors", "targets", "cost USD"]
        is_checked = any(report.checked for report in found)
        if is_checked:
            columns += ["completed", "USD a completed task"]
        rows = [_row(report) + (_completed(report) if is_checked else []) for report in found]
        print_table(columns, rows, "Nothing was measured.")
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


def _completed(report: ModelReport) -> list[str]:
    """The share of checked answers that passed, with its 95 % interval; and what one of them cost."""
    from gateway.bench.difference import wilson

    if not report.checked:
        return ["-", "-"]
    low, high = wilson(report.completed, report.checked)
    share = f"{report.completed} of {report.checked} ({100 * low:.0f}–{100 * high:.0f} %)"
    usd = report.cost_per_completed_usd
    return [share, "unknown" if usd is None else f"{usd:.6f}"]


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
