"""`sparkgate keys create|list|revoke`: the API keys of the database.

A new key's plain text is printed once, on stdout, and is kept nowhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gateway.cli import options
from gateway.cli.database import ask
from gateway.cli.output import print_json, print_table

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from gateway.callers.store import StoredKey

Result = TypeVar("Result")
Name = Annotated[str, typer.Argument(help="The caller's name in the ledger.", metavar="NAME")]


class ScopeOption(StrEnum):
    call = "call"
    read = "read"
    admin = "admin"


def register(app: typer.Typer) -> None:
    keys = typer.Typer(help="API keys of callers.", no_args_is_help=True)
    keys.command("create")(create)
    keys.command("list")(list_keys)
    keys.command("revoke")(revoke)
    app.add_typer(keys, name="keys")


def create(
    name: Name,
    scope: Annotated[
        ScopeOption,
        typer.Option(help="call: the API; read: also the operations endpoints; admin: everything."),
    ] = ScopeOption.call,
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """Create a key and print it, this once."""
    from gateway.callers.store import create_key

    stored, plain = _run(config, data_dir, lambda conn: create_key(conn, name, scope.value))
    if as_json:
        print_json({**_as_json(stored), "key": plain})
        return
    typer.echo(plain)
    typer.echo(f"Keep it: only its digest is stored. Name '{name}', scope {scope.value}.", err=True)


def list_keys(
    config: options.Config = None, data_dir: options.DataDir = options.DATA_DIR, as_json: options.Json = False
) -> None:
    """List all keys, revoked ones included."""
    from gateway.callers import store

    found = _run(config, data_dir, store.list_keys)
    if as_json:
        print_json([_as_json(key) for key in found])
        return
    rows = [(key.name, f"{key.prefix}…", key.scope, key.created_at, key.revoked_at) for key in found]
    print_table(("name", "key", "scope", "created", "revoked"), rows, "There are no keys yet.")


def revoke(
    name: Name,
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """Take a key out of force. Its name stays taken: the ledger knows its calls by it."""
    from gateway.callers.store import revoke_key

    stored = _run(config, data_dir, lambda conn: revoke_key(conn, name))
    if as_json:
        print_json(_as_json(stored))
    else:
        typer.echo(f"'{name}' is revoked.")


def _run(
    config: Path | None, data_dir: Path, action: Callable[[AsyncConnection], Awaitable[Result]]
) -> Result:
    """`action` in one transaction."""

    async def in_transaction(engine: AsyncEngine) -> Result:
        async with engine.begin() as conn:
            return await action(conn)

    return ask(config, data_dir, in_transaction)


def _as_json(key: StoredKey) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        name: value.isoformat() if hasattr(value, "isoformat") else value
        for name, value in asdict(key).items()
    }
