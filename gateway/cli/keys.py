"""`sparkgate keys create|set|list|revoke`: the API keys of the database, and what they are held to.

A new key's plain text is printed once, on stdout, and is kept nowhere.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from gateway.cli import completion, options
from gateway.cli.database import ask
from gateway.cli.manual import LEDGER, NOTHING, manual
from gateway.cli.output import Refused, print_json, print_table

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from gateway.callers.spending import Spent
    from gateway.callers.store import StoredKey, Terms

Result = TypeVar("Result")
NONE = "none"
_NAME = "The caller's name in the ledger."
Name = Annotated[str, typer.Argument(help=_NAME, metavar="NAME")]
ItsName = Annotated[str, typer.Argument(help=_NAME, metavar="NAME", autocompletion=completion.keys)]
Models = Annotated[
    list[str] | None,
    typer.Option(help="Model names it may ask for: shell patterns, several with commas.", metavar="PATTERNS"),
]
Rpm = Annotated[str | None, typer.Option(help="Calls a minute.", metavar="N")]
Tpm = Annotated[str | None, typer.Option(help="Tokens a minute, input and output.", metavar="N")]
Parallel = Annotated[str | None, typer.Option(help="Calls at once.", metavar="N")]
DailyUsd = Annotated[str | None, typer.Option(help="Budget of a day (UTC).", metavar="USD")]
MonthlyUsd = Annotated[str | None, typer.Option(help="Budget of a month (UTC).", metavar="USD")]
Expires = Annotated[
    str | None, typer.Option(help="2026-12-31, 2026-12-31T18:00+01:00 (UTC if no zone), 30d or 12h from now.")
]
Tag = Annotated[list[str] | None, typer.Option(help="May be given several times.")]


class ScopeOption(StrEnum):
    call = "call"
    read = "read"
    admin = "admin"


def register(app: typer.Typer) -> None:
    keys = typer.Typer(help="API keys of callers.", no_args_is_help=True)
    about = manual(
        "sparkgate keys create web",
        "sparkgate keys create web --rpm 600 --daily-usd 20 --models 'auto*' --expires 90d",
        "sparkgate keys create ops --scope admin",
        reads=LEDGER,
        writes="the database; the key's plain text goes to stdout and is kept nowhere",
    )
    keys.command("create", epilog=about)(create)
    about = manual(
        "sparkgate keys set web --rpm 1200 --daily-usd none",
        reads=LEDGER,
        writes="the database; in force on every gateway within 3 s",
    )
    keys.command("set", epilog=about)(set_terms)
    about = manual("sparkgate keys list", "sparkgate keys list --json", reads=LEDGER, writes=NOTHING)
    keys.command("list", epilog=about)(list_keys)
    about = manual(
        "sparkgate keys revoke web",
        reads=LEDGER,
        writes="the database; refused on every gateway within 3 s",
    )
    keys.command("revoke", epilog=about)(revoke)
    app.add_typer(keys, name="keys")


def create(
    name: Name,
    scope: Annotated[
        ScopeOption,
        typer.Option(help="call: the API; read: the dashboard and lists, no calls; admin: everything."),
    ] = ScopeOption.call,
    models: Models = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    parallel: Parallel = None,
    daily_usd: DailyUsd = None,
    monthly_usd: MonthlyUsd = None,
    expires: Expires = None,
    tag: Tag = None,
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """Create a key and print it, this once. What is not given is not limited."""
    from gateway.callers.store import create_key

    terms = _terms(models, rpm, tpm, parallel, daily_usd, monthly_usd, expires, tag)
    stored, plain = _run(config, data_dir, lambda conn: create_key(conn, name, scope.value, terms=terms))
    if as_json:
        print_json({**stored.as_json(), "key": plain})
        return
    typer.echo(plain)
    typer.echo(f"Keep it: only its digest is stored. Name '{name}', scope {scope.value}.", err=True)


def set_terms(
    name: ItsName,
    models: Models = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    parallel: Parallel = None,
    daily_usd: DailyUsd = None,
    monthly_usd: MonthlyUsd = None,
    expires: Expires = None,
    tag: Tag = None,
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """Change what a key is held to: what is not given stays, `none` takes a limit away."""
    from gateway.callers.store import change_key

    terms = _terms(models, rpm, tpm, parallel, daily_usd, monthly_usd, expires, tag)
    stored = _run(config, data_dir, lambda conn: change_key(conn, name, terms))
    if as_json:
        print_json(stored.as_json())
    else:
        typer.echo(f"'{name}': {_shown_terms(stored.terms)}")


def list_keys(
    config: options.Config = None, data_dir: options.DataDir = options.DATA_DIR, as_json: options.Json = False
) -> None:
    """List all keys with their limits and what they have spent, revoked ones included."""
    found = _run(config, data_dir, _with_spending)
    if as_json:
        print_json([key.as_json() | spent.as_json() for key, spent in found])
        return
    columns = ("name", "key", "scope", "limits", "tags", "USD today", "USD this month", "created", "revoked")
    print_table(columns, [_row(key, spent) for key, spent in found], "There are no keys yet.")


def revoke(
    name: ItsName,
    config: options.Config = None,
    data_dir: options.DataDir = options.DATA_DIR,
    as_json: options.Json = False,
) -> None:
    """Take a key out of force. Its name stays taken: the ledger knows its calls by it."""
    from gateway.callers.store import revoke_key

    stored = _run(config, data_dir, lambda conn: revoke_key(conn, name))
    if as_json:
        print_json(stored.as_json())
    else:
        typer.echo(f"'{name}' is revoked.")


async def _with_spending(conn: AsyncConnection) -> list[tuple[StoredKey, Spent]]:
    from gateway.callers import store, usage
    from gateway.callers.spending import Spent, day_of

    spent = await usage.spent(conn, day_of(time.time()))
    return [(key, spent.get(key.name, Spent())) for key in await store.list_keys(conn)]


def _terms(
    models: list[str] | None,
    rpm: str | None,
    tpm: str | None,
    parallel: str | None,
    daily_usd: str | None,
    monthly_usd: str | None,
    expires: str | None,
    tags: list[str] | None,
) -> Terms:
    """Those that were given, read. Raises Refused."""
    read = {
        "allowed_models": _texts(models),
        "rpm": _read("--rpm", rpm, int, "a whole number"),
        "tpm": _read("--tpm", tpm, int, "a whole number"),
        "parallel": _read("--parallel", parallel, int, "a whole number"),
        "daily_usd": _read("--daily-usd", daily_usd, _dollars, "an amount of dollars"),
        "monthly_usd": _read("--monthly-usd", monthly_usd, _dollars, "an amount of dollars"),
        "expires_at": _read("--expires", expires, _moment, "a date, a time, 30d or 12h"),
        "tags": _texts(tags),
    }
    return cast("Terms", {name: value for name, value in read.items() if value is not _NOT_GIVEN})


_NOT_GIVEN = object()


def _read(option: str, text: str | None, reader: Callable[[str], Any], wanted: str) -> Any:
    if text is None:
        return _NOT_GIVEN
    if text == NONE:
        return None
    try:
        return reader(text)
    except (ValueError, OverflowError, InvalidOperation):
        raise Refused(f"{option} wants {wanted}, or `none`, not '{text}'") from None


def _texts(given: Sequence[str] | None) -> Any:
    if not given:
        return _NOT_GIVEN
    texts = [text.strip() for texts in given for text in texts.split(",")]
    return [] if texts == [NONE] else texts


def _dollars(text: str) -> Decimal:
    amount = Decimal(text)
    if not amount.is_finite():
        raise ValueError
    return amount


def _moment(text: str) -> datetime:
    if span := re.fullmatch(r"(\d+)([dh])", text):
        count = int(span[1])
        return datetime.now(UTC) + (timedelta(days=count) if span[2] == "d" else timedelta(hours=count))
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _row(key: StoredKey, spent: Spent) -> list[Any]:
    dollars = [f"{nusd / 1e9:.4f}" for nusd in (spent.today, spent.this_month)]
    tags = ", ".join(key.terms["tags"]) or None
    shown = (key.name, f"{key.prefix}…", key.scope, _shown_terms(key.terms), tags)
    return [*shown, *dollars, key.created_at, key.revoked_at]


def _shown_terms(terms: Terms) -> str:
    return ", ".join(_each_term(terms)) or "no limits"


def _each_term(terms: Terms) -> Iterator[str]:
    if terms["allowed_models"]:
        yield f"models {' '.join(terms['allowed_models'])}"
    for value, unit in (
        (terms["rpm"], "calls a minute"),
        (terms["tpm"], "tokens a minute"),
        (terms["parallel"], "calls at once"),
    ):
        if value is not None:
            yield f"{value} {unit}"
    for usd, span in ((terms["daily_usd"], "day"), (terms["monthly_usd"], "month")):
        if usd is not None:
            yield f"{usd.normalize():f} USD a {span}"
    if terms["expires_at"] is not None:
        yield f"until {terms['expires_at'].astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _run(
    config: Path | None, data_dir: Path, action: Callable[[AsyncConnection], Awaitable[Result]]
) -> Result:
    """`action` in one transaction."""

    async def in_transaction(engine: AsyncEngine) -> Result:
        async with engine.begin() as conn:
            return await action(conn)

    return ask(config, data_dir, in_transaction)
