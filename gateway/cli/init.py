"""`sparkgate init`: two commented example files, or those that a LiteLLM proxy's configuration becomes.

A file that exists is never touched: examples are written where there are none, a conversion writes both or neither.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli import options
from gateway.cli.manual import manual
from gateway.cli.output import Refused, print_json, print_table

if TYPE_CHECKING:
    from gateway.cli.from_litellm import Converted

_FATES = {"taken": "taken over", "elsewhere": "elsewhere here", "nothing": "no counterpart"}
FromLitellm = Annotated[
    Path | None,
    typer.Option("--from-litellm", help="A LiteLLM proxy's config.yaml to convert.", metavar="FILE"),
]


def register(app: typer.Typer) -> None:
    about = manual(
        "sparkgate init",
        "sparkgate init --from-litellm config.yaml",
        reads="the file of --from-litellm",
        writes="sparkgate.yaml and policy.yaml, each only where there is none",
    )
    app.command("init", epilog=about)(init)


def init(
    config: options.Config = None,
    policy: options.Policy = None,
    from_litellm: FromLitellm = None,
    as_json: options.Json = False,
) -> None:
    """Write sparkgate.yaml and policy.yaml: commented examples, or converted from a LiteLLM proxy's config.yaml.

    Files that exist are never changed. A conversion says what became of every key, and writes no secret: keys that
    the file has in plain become environment variables, which it names.
    """
    from gateway.supervise import options as defaults

    files = (config or defaults.DEFAULT_CONFIG, policy or defaults.DEFAULT_POLICY)
    if from_litellm is not None:
        _convert(from_litellm, files, as_json)
    else:
        _write_examples(files, as_json)


def _write_examples(files: tuple[Path, Path], as_json: bool) -> None:
    from gateway.config.load import DEFAULT_DEPLOYMENT, DEFAULT_POLICY

    texts = [template.read_text(encoding="utf-8") for template in (DEFAULT_DEPLOYMENT, DEFAULT_POLICY)]
    results = {str(path): _write(path, text) for path, text in zip(files, texts, strict=True)}
    if as_json:
        print_json({path: "written" if is_new else "kept" for path, is_new in results.items()})
        return
    for path, is_new in results.items():
        typer.echo(f"{path}  written" if is_new else f"{path}  exists, left as it is")
    if any(results.values()):
        typer.echo("Start with `sparkgate up`; check edits with `sparkgate policy check`.")


def _convert(source: Path, files: tuple[Path, Path], as_json: bool) -> None:
    from gateway.cli.from_litellm import convert
    from gateway.config.load import read_text

    if taken := [str(path) for path in files if path.exists()]:
        raise Refused(
            f"{' and '.join(taken)} would be overwritten; move them away, or name others with --config and --policy"
        )
    made = convert(read_text(source), source.name)
    for path, text in zip(files, (made.deployment, made.policy), strict=True):
        _write(path, text)
    if as_json:
        notes = [asdict(note) for note in made.notes]
        print_json({"written": list(map(str, files)), "keys": notes, "variables": dict(made.variables)})
    else:
        _print(made, files)


def _print(made: Converted, files: tuple[Path, Path]) -> None:
    counts = Counter((note.general_key, _FATES[note.fate], note.here) for note in made.notes)
    rows = [(f"{key} ({n}x)" if n > 1 else key, fate, here) for (key, fate, here), n in counts.items()]
    print_table(("in LiteLLM's file", "is", "here"), rows, "")
    typer.echo("")
    for path in files:
        typer.echo(f"{path}  written")
    for name, value in made.variables.items():
        state = "is set" if os.environ.get(name) else "NOT set"
        typer.echo(f"{name}  {state}: {value}")
    typer.echo("Look them over, check with `sparkgate policy check`, start with `sparkgate up`.")


def _write(path: Path, text: str) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True
