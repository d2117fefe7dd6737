"""`sparkgate policy replay`: the ledger's calls under another policy: what would have gone where, and how it would do.

In: a policy file, a span of time, the ledger. Out: tables (or JSON on stdout), a picture, a progress bar on stderr.
Nothing is called.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli import bench_runs, options
from gateway.cli.database import ask
from gateway.cli.output import Refused, print_fields, print_json, print_table, shown
from gateway.cli.policy_files import check_files, priced_catalog

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from gateway.config.load import LoadedDeployment
    from router.policy import Policy

FIGURES = {
    "ttft_p50_s": "TTFT p50",
    "ttft_p95_s": "TTFT p95",
    "completion_p50_s": "completion p50",
    "completion_p95_s": "completion p95",
    "timeout_rate": "timeouts",
    "failure_rate": "failures",
    "cost_usd": "cost of a call",
    "cost_per_completed_task_usd": "cost per completed task",
}
_UNITS = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}


def replay(
    policy: Annotated[
        Path, typer.Option("--policy", help="The policy to try.", metavar="FILE", show_default=False)
    ],
    since: Annotated[
        str, typer.Option(help="90m, 24h or 7d back, or a date or time (UTC if no zone).", metavar="WHEN")
    ] = "24h",
    until: Annotated[str | None, typer.Option(help="As --since.", show_default="now", metavar="WHEN")] = None,
    limit: Annotated[int, typer.Option(min=1, max=2_000_000, help="The newest so many calls.")] = 100_000,
    plot: Annotated[Path | None, typer.Option(help="Draw the figures.", metavar="FILE.svg")] = None,
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """Decide the ledger's calls anew under another policy, and estimate what would have come of it."""
    bench_runs.check_picture("--plot", plot)
    now = datetime.now(UTC)
    start, end = _moment("--since", since, now), now if until is None else _moment("--until", until, now)
    if start >= end:
        raise Refused(f"--since {since} is not before {'now' if until is None else f'--until {until}'}")
    deployment, loaded = check_files(config, policy).right()
    found = ask(config, data_dir, lambda engine: _replayed(engine, deployment, loaded, start, end, limit))
    if plot is not None:
        from gateway.bench.replay_chart import svg

        plot.write_text(svg(found))
    if as_json:
        print_json(found)
    else:
        print_report(found)


async def _replayed(
    engine: AsyncEngine,
    deployment: LoadedDeployment,
    policy: Policy,
    since: datetime,
    until: datetime,
    limit: int,
) -> dict[str, Any]:
    """Which targets lack their key, the gateway knows: this shell may not have the keys it has."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from gateway.control.replay_run import replay
    from gateway.ledger.targets import disabled_targets

    async with engine.connect() as connection:
        catalog = priced_catalog(deployment, await disabled_targets(connection))
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def advance(done: int, of: int) -> None:
            bar.update(task, completed=done, total=of)

        return await replay(engine, catalog, policy, since, until, limit, advance)


def print_report(found: dict[str, Any]) -> None:
    """A replay's JSON, for people."""
    overall, reproduced = found["all"], found["reproduced_share"]
    fields = {
        "policy": found["policy"],
        "span": " to ".join(shown(datetime.fromisoformat(found[end])) for end in ("since", "until")),
        "calls": f"{found['recorded_calls']} recorded, {overall['calls']} decided anew",
        "moved": f"{overall['moved']} ({_share(overall['moved'], overall['calls'])}), "
        f"{overall['unknown']} of them to where nothing is known",
        "check": None
        if reproduced is None
        else f"their own policies, replayed the same way, send {reproduced:.1%} where they went",
    }
    print_fields({name: value for name, value in fields.items() if value is not None})
    if not overall["calls"]:
        typer.echo("\nNo call of that span can be decided anew.")
    else:
        typer.echo("")
        moves = [
            (report["shape"], *move, _share(move[2], report["calls"]))
            for report in found["shapes"]
            for move in report["moves"]
        ]
        print_table(("shape", "went to", "would go to", "calls", "share"), moves, "")
        typer.echo("")
        _print_figures([overall, *found["shapes"]])
        typer.echo(
            "\nIn brackets: 95 % intervals; ? where too few calls tell. Both sides are of the same calls."
        )
    for note in found["notes"]:
        typer.echo(f"Note: {note}")


def _print_figures(reports: list[dict[str, Any]]) -> None:
    rows = [
        (report["shape"], title, _estimate(name, report["old"][name]), _estimate(name, report["new"][name]))
        for report in reports
        for name, title in FIGURES.items()
        if report["old"][name] is not None or report["new"][name] is not None
    ]
    print_table(
        ("shape", "figure", "recorded", "under this policy"), rows, "Of no call can anything be told."
    )


def _estimate(name: str, estimate: dict[str, Any] | None) -> str | None:
    if estimate is None:
        return None
    value, low, high = (_figure(name, estimate[key]) for key in ("value", "low", "high"))
    unit = "" if name.endswith("_rate") else " s" if name.endswith("_s") else " USD"
    return f"{value}{unit} ({low} – {high})"


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:.2%}" if name.endswith("_rate") else f"{value:.3g}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _moment(option: str, text: str, now: datetime) -> datetime:
    try:
        if back := re.fullmatch(r"(\d+)([smhd])", text):
            return now - int(back[1]) * _UNITS[back[2]]
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise Refused(f"{option} wants 90m, 24h, 7d, a date or a time, not '{text}'") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
