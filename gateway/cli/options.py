"""Options that several commands share, and the two YAML files they name.

In: the command line's values. Out: typer annotations, paths, `LoadedDeployment`. Imports nothing heavy at
module level, so that `sparkgate --help` stays quick; the commands' files follow the same rule.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.config.variables import API_KEY_VARIABLE, DATABASE_URL_VARIABLE

if TYPE_CHECKING:
    from gateway.config.load import LoadedDeployment

DATA_DIR = Path(".sparkgate")

Config = Annotated[
    Path | None, typer.Option("--config", help="What exists.", show_default="sparkgate.yaml", metavar="FILE")
]
Policy = Annotated[
    Path | None, typer.Option("--policy", help="How to choose.", show_default="policy.yaml", metavar="FILE")
]
DataDir = Annotated[Path, typer.Option("--data-dir", help="Database, spool, models, logs.", metavar="DIR")]
Url = Annotated[
    str | None,
    typer.Option("--url", help="Of the gateway.", show_default="host and port of the file", metavar="URL"),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        help="To call the gateway with.",
        show_default=f"{API_KEY_VARIABLE}, or the first key",
        metavar="KEY",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def existing(given: Path | None, default: Path) -> Path | None:
    """The file to read. One that was named must be there; the default one need not, None then."""
    from gateway.config.mistakes import ConfigError, Mistake

    path = (given or default).expanduser()
    if path.is_file():
        return path
    if given is not None:
        hint = "there is no such file; `sparkgate init` writes one"
        raise ConfigError([Mistake(str(given), None, "", hint)])
    return None


def loaded_deployment(config: Path | None) -> LoadedDeployment:
    """sparkgate.yaml checked, with SPARKGATE_DATABASE_URL laid over it. Raises ConfigError."""
    from dataclasses import replace

    from gateway.config.load import load_deployment
    from gateway.supervise.options import DEFAULT_CONFIG

    loaded = load_deployment(existing(config, DEFAULT_CONFIG), os.environ)
    database_url = os.environ.get(DATABASE_URL_VARIABLE)
    if not database_url:
        return loaded
    return replace(loaded, deployment=loaded.deployment.model_copy(update={"database_url": database_url}))
