"""`sparkgate policy versions|show|diff|publish|rollback`: the stored versions of the policy, straight in the database.

What is published here is in force on every gateway of that database within 3 s, whether or not one is running now.
"""

from __future__ import annotations

from datetime import datetime
from difflib import unified_diff
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli import completion, options
from gateway.cli.database import ask
from gateway.cli.output import print_error, print_json, print_table
from gateway.cli.policy_files import check_files

SOURCE = "cli"
Version = Annotated[
    str,
    typer.Argument(
        metavar="HASH|ID",
        help="As `policy versions` lists it; a hash may be cut short.",
        autocompletion=completion.versions,
    ),
]
OrInForce = Annotated[
    str | None,
    typer.Argument(
        metavar="HASH|ID",
        help="Left out: the version in force.",
        show_default=False,
        autocompletion=completion.versions,
    ),
]


def versions(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 20,
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """List the newest versions of the policy, refused ones included."""
    from gateway.control import policy_versions

    found = ask(config, data_dir, lambda engine: policy_versions.versions(engine, limit))
    if as_json:
        print_json(found)
        return
    rows = [
        (
            version["hash"],
            datetime.fromisoformat(version["published_at"]),
            version["source"],
            _state(version),
            version["id"],
        )
        for version in found
    ]
    print_table(("hash", "published", "source", "", "id"), rows, "No policy was published yet.")


def show(
    version: OrInForce = None,
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """Print the text of a version on stdout, and what it is on stderr."""
    found = _stored(version, config, data_dir)
    if as_json:
        print_json(found)
        return
    print_error(
        f"# {found['hash']}, {_state(found) or 'not in force'}, from {found['source']}, {found['published_at']}"
    )
    typer.echo(found["yaml"], nl=not found["yaml"].endswith("\n"))


def diff(
    old: Version,
    new: OrInForce = None,
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """Print what differs between two versions, as a unified diff."""
    one, other = (_stored(which, config, data_dir) for which in (old, new))
    texts = one["yaml"].splitlines(), other["yaml"].splitlines()
    lines = list(unified_diff(*texts, fromfile=one["hash"], tofile=other["hash"], lineterm=""))
    if as_json:
        print_json({"old": one["hash"], "new": other["hash"], "diff": lines})
        return
    for line in lines:
        typer.echo(line)


def publish(
    file: Annotated[Path, typer.Argument(help="The policy to publish.")],
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """Check a policy and put it in force, without touching policy.yaml."""
    from gateway.config.load import policy_text
    from gateway.control import policy_versions

    deployment, _ = check_files(config, file).right()
    text, names = policy_text(file), deployment.target_names
    published = ask(
        config, data_dir, lambda engine: policy_versions.publish(engine, SOURCE, file.name, text, names)
    )
    _say({"hash": published, "unchanged": False}, as_json, "is published")


def rollback(
    version: Version,
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """Put an old version in force again: its text is published as a new version."""
    from gateway.control import policy_versions

    names = options.loaded_deployment(config).target_names
    done = ask(config, data_dir, lambda engine: policy_versions.roll_back(engine, version, names))
    _say(done, as_json, "is published again")


def _say(done: dict[str, Any], as_json: bool, what: str) -> None:
    if as_json:
        print_json(done)
    elif done["unchanged"]:
        typer.echo(f"Version {done['hash']} is in force already; nothing was published.")
    else:
        typer.echo(f"Version {done['hash']} {what}: in force on every running gateway within 3 s.")
        print_error("policy.yaml is as it was; it takes over again when it is next edited.")


def _stored(version: str | None, config: Path | None, data_dir: Path) -> dict[str, Any]:
    from gateway.control import policy_versions

    return ask(config, data_dir, lambda engine: policy_versions.show(engine, version))


def _state(version: dict[str, Any]) -> str | None:
    if version["active"]:
        return "in force"
    error: str | None = version["error"]
    return error and "refused: " + error.splitlines()[0]
