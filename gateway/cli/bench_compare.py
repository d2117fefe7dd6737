"""`sparkgate bench compare` and `bench list`: stored runs, side by side and in a row.

In: names of runs. Out: a table with 95 % intervals and what follows in words, or JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli import bench_runs, completion, options
from gateway.cli.output import Refused, print_json, print_table

if TYPE_CHECKING:
    from gateway.bench.compare import Difference, Run

KINDS = ("models", "engine", "gateway", "routing")
_HELP = "latest, latest~1, an id or its beginning, a file of --json; MODEL@RUN for one model of it."


def compare(
    a: Annotated[str, typer.Argument(help=_HELP, metavar="A", autocompletion=completion.runs)],
    b: Annotated[str, typer.Argument(help="The same.", metavar="B", autocompletion=completion.runs)],
    kind: Annotated[str, typer.Option(help=f"What `latest` means: {', '.join(KINDS)}.")] = "models",
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """Say how B differs from A, how sure that is, and what follows."""
    _check_kind(kind)
    url = None
    if not all(Path(_run_name(name)).is_file() for name in (a, b)):
        url = bench_runs.database_url(config, data_dir)
    show(a, b, url, kind=kind, as_json=as_json)


def list_runs(
    kind: Annotated[str | None, typer.Option(help=f"Only these: {', '.join(KINDS)}.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 20,
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """List stored runs, newest first."""
    from gateway.bench import store

    if kind is not None:
        _check_kind(kind)
    runs = store.newest(bench_runs.database_url(config, data_dir), kind, limit)
    if as_json:
        print_json(runs)
        return
    cells = [[str(run["id"]), run["kind"], run["started_at"], _measured(run["settings"])] for run in runs]
    print_table(
        ["id", "kind", "started", "of"], cells, "No run is stored; `sparkgate bench models auto` makes one."
    )


def show(a: str, b: str, url: str | None, *, kind: str = "models", as_json: bool = False) -> None:
    """The comparison of two runs by their names; `url` is needed where one is in the database."""
    from gateway.bench.compare import NotComparable, conditions, differences, sentences

    models = [name.rpartition("@")[0] for name in (a, b)]
    if any(models) and not all(models):
        raise Refused("name a model of both runs (MODEL@RUN), or of neither")
    runs = [_run(_run_name(name), url, kind) for name in (a, b)]
    try:
        found = differences(runs[0], runs[1], (models[0], models[1]) if all(models) else None)
    except NotComparable as error:
        raise Refused(str(error)) from None
    differ = conditions(*runs)
    if as_json:
        print_json(_as_json(runs, found, differ))
        return
    for letter, run in zip("AB", runs, strict=True):
        typer.echo(f"{letter}  {run.label}, {run.started_at}")
    columns = ["series", "figure", "unit", "A", "B", "B ÷ A", "95 %", "B is"]
    print_table(columns, [_row(it) for it in found], "Nothing was measured in both.")
    if runs[0].kind == "models":
        for sentence in sentences(found):
            typer.echo(sentence)
        typer.echo(f"One in twenty of {len(found)} figures would differ by chance alone.")
    else:
        typer.echo("These runs keep no samples: how sure a difference is cannot be told.")
    if differ:
        typer.echo(f"Mind that the runs differ in: {', '.join(differ)}.")


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise Refused(f"--kind {kind}: one of {', '.join(KINDS)}")


def _run_name(name: str) -> str:
    return name if Path(name).is_file() else name.rpartition("@")[2]


def _run(name: str, url: str | None, kind: str) -> Run:
    from gateway.bench import store
    from gateway.bench.compare import Run

    if Path(name).is_file():
        return _from_file(Path(name))
    assert url is not None
    rows = store.find(url, name, kind if name.startswith("latest") else None)
    if len(rows) != 1:
        several = "several runs' ids begin so" if rows else "there is no such run"
        raise Refused(f"{name}: {several}; `sparkgate bench list` shows them")
    (row,) = rows
    return Run(name, row["kind"], row["started_at"].isoformat(), row["settings"], row["results"])


def _from_file(file: Path) -> Run:
    from gateway.bench.compare import Run

    try:
        value = json.loads(file.read_text())
        results = {key: value[key] for key in ("samples", "figures") if key in value}
        kind = "models" if "models" in value else "engine" if "waves" in value else "gateway"
        return Run(str(file), kind, str(value.get("started_at", "")), value["settings"], results)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise Refused(f"{file}: not the JSON of a benchmark (`sparkgate bench models … --json`)") from None


def _measured(settings: dict[str, Any]) -> str:
    names = (
        settings.get("models")
        or settings.get("contestants")
        or settings.get("variants")
        or settings.get("model")
    )
    return ", ".join(map(str, names)) if isinstance(names, list) else str(names or "-")


def _row(it: Difference) -> list[Any]:
    change, interval = "-", "-"
    if it.change is not None:
        change = f"{100 * it.change.value:+.1f} pts" if it.is_share else f"{it.change.value:.3f}"
        if it.change.low is not None and it.change.high is not None:
            ends = (it.change.low, it.change.high)
            interval = " to ".join(f"{100 * end:+.1f}" if it.is_share else f"{end:.3f}" for end in ends)
    return [it.series, it.figure, it.unit, it.a, it.b, change, interval, it.verdict]


def _as_json(runs: list[Run], found: list[Difference], differ: list[str]) -> dict[str, Any]:
    from dataclasses import asdict

    from gateway.bench.compare import sentences

    named = {
        letter: {"run": run.label, "kind": run.kind, "started_at": run.started_at}
        for letter, run in zip("ab", runs, strict=True)
    }
    told = [asdict(it) | {"verdict": it.verdict} for it in found]
    words = sentences(found) if runs[0].kind == "models" else []
    return {**named, "differences": told, "sentences": words, "other_settings": differ}
