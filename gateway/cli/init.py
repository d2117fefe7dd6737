"""`sparkgate init`: the two commented example files, written where there are none.

A file that exists is never touched.
"""

from __future__ import annotations

from pathlib import Path

import typer

from gateway.cli import options
from gateway.cli.output import print_json


def register(app: typer.Typer) -> None:
    app.command("init")(init)


def init(config: options.Config = None, policy: options.Policy = None, as_json: options.Json = False) -> None:
    """Write sparkgate.yaml and policy.yaml with comments, unless they exist."""
    from gateway.config.load import DEFAULT_DEPLOYMENT, DEFAULT_POLICY
    from gateway.supervise import options as defaults

    results = {
        str(path): _write(path, template.read_text(encoding="utf-8"))
        for path, template in (
            (config or defaults.DEFAULT_CONFIG, DEFAULT_DEPLOYMENT),
            (policy or defaults.DEFAULT_POLICY, DEFAULT_POLICY),
        )
    }
    if as_json:
        print_json({path: "written" if is_new else "kept" for path, is_new in results.items()})
        return
    for path, is_new in results.items():
        typer.echo(f"{path}  written" if is_new else f"{path}  exists, left as it is")
    if any(results.values()):
        typer.echo("Start with `sparkgate up`; check edits with `sparkgate policy check`.")


def _write(path: Path, text: str) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True
