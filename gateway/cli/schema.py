"""`sparkgate schema deployment|policy`: JSON Schemas of the two YAML files, for editors."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from gateway.cli.manual import NOTHING, manual
from gateway.cli.output import print_json


class File(StrEnum):
    deployment = "deployment"
    policy = "policy"


def register(app: typer.Typer) -> None:
    about = manual("sparkgate schema policy > policy.schema.json", reads=NOTHING, writes=NOTHING)
    app.command("schema", epilog=about)(schema)


def schema(file: Annotated[File, typer.Argument(help="sparkgate.yaml or policy.yaml.")]) -> None:
    """Print the JSON Schema of a configuration file."""
    from gateway.config.schema import json_schema

    print_json(json_schema(file.value))
