"""API keys in Postgres: load, create, list, change, revoke, and the first one of a new installation.

In: an async connection inside a transaction of the caller, who commits. Out: `KeyRing`, `StoredKey`s, and
once the plain text of a new key, which is neither stored nor logged. A revoked key keeps its row and its
name: the ledger's callers are key names, and a name should not change hands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, TypedDict, cast
from uuid import UUID, uuid4

from sqlalchemy import Row, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.callers.keys import Key, KeyLimits, KeyRing, Scope, digest, new_key, shown_prefix
from gateway.ledger.tables import api_keys

FIRST = "first"
MIN_KEY_CHARS = 8
MAX_LIMIT = 10**9  # calls, tokens, dollars; larger ones limit nothing
MAX_TEXTS, MAX_TEXT_CHARS = 100, 200  # of patterns and tags
_FIRST_KEY_LOCK = 0x5BA2C6A83  # advisory lock: several processes may start on an empty database at once


class KeyRefused(Exception):
    """A key cannot be created, changed or revoked as asked; the message says why."""


class UnknownKey(KeyRefused):
    """No key has the name."""


class Terms(TypedDict, total=False):
    """What a key is held to, as columns of `api_keys`; None or an empty sequence = no such limit."""

    allowed_models: Sequence[str]
    rpm: int | None
    tpm: int | None
    parallel: int | None
    daily_usd: Decimal | None
    monthly_usd: Decimal | None
    expires_at: datetime | None
    tags: Sequence[str]


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One row of the list of keys."""

    id: UUID
    name: str
    prefix: str
    scope: Scope
    created_at: datetime
    revoked_at: datetime | None
    terms: Terms

    def as_json(self) -> dict[str, Any]:
        """Flat: times as ISO 8601, money as numbers of dollars."""
        row = {name: getattr(self, name) for name in self.__slots__ if name != "terms"} | self.terms
        return {name: _plain(value) for name, value in row.items()}


async def load_ring(conn: AsyncConnection) -> KeyRing:
    """Every key that is neither revoked nor expired."""
    lasts = api_keys.c.expires_at.is_(None) | (api_keys.c.expires_at > func.now())
    rows = await conn.execute(select(api_keys).where(api_keys.c.revoked_at.is_(None), lasts))
    return KeyRing((row.hash, _key(row)) for row in rows)


async def list_keys(conn: AsyncConnection) -> list[StoredKey]:
    """All keys, revoked ones included, oldest first."""
    rows = await conn.execute(select(api_keys).order_by(api_keys.c.created_at, api_keys.c.name))
    return [_stored(row) for row in rows]


async def create_key(
    conn: AsyncConnection,
    name: str,
    scope: Scope = "call",
    key: str | None = None,
    terms: Terms | None = None,
) -> tuple[StoredKey, str]:
    """Stores a key, a new one unless `key` is given, and returns it with its plain text.

    Raises KeyRefused when the name or the key itself is taken or cannot be used, or a term makes no sense.
    """
    if not name.strip() or name != name.strip() or len(name) > 100 or not name.isprintable():
        raise KeyRefused("a key's name should be 1 to 100 printable characters without spaces around them")
    plain = new_key() if key is None else _usable(key)
    values = _row(name, scope, plain) | _checked(terms or {})
    rows = await conn.execute(insert(api_keys).values(values).on_conflict_do_nothing().returning(api_keys))
    row = rows.first()
    if row is None:
        raise KeyRefused(await _why_taken(conn, name))
    return _stored(row), plain


async def change_key(conn: AsyncConnection, name: str, terms: Terms) -> StoredKey:
    """Sets these terms and leaves the others; gateways notice within seconds. Raises KeyRefused, UnknownKey."""
    return await _update(conn, name, _checked(terms))


async def revoke_key(conn: AsyncConnection, name: str) -> StoredKey:
    """Takes the key out of force; gateways notice within seconds. Raises KeyRefused, UnknownKey."""
    return await _update(conn, name, {"revoked_at": func.now()})


async def _update(conn: AsyncConnection, name: str, values: Mapping[str, Any]) -> StoredKey:
    row = (
        await conn.execute(
            update(api_keys)
            .where(api_keys.c.name == name, api_keys.c.revoked_at.is_(None))
            .values(name=name, **values)  # without any value it would set all columns
            .returning(api_keys)
        )
    ).first()
    if row is not None:
        return _stored(row)
    known = (await conn.execute(select(api_keys.c.revoked_at).where(api_keys.c.name == name))).first()
    if known is None:
        raise UnknownKey(f"no key is called '{name}'")
    raise KeyRefused(f"the key '{name}' is revoked already")


async def ensure_first_key(conn: AsyncConnection, wanted: str | None) -> str | None:
    """The plain text of a key that works from now on, or None when there are keys and none is wanted.

    `wanted` (the variable SPARKGATE_API_KEY) is stored with scope admin unless it is there already. Without
    it, an installation that never had a key gets one called `first`. Raises KeyRefused for a `wanted` that
    was revoked or is too short.
    """
    await conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _FIRST_KEY_LOCK})
    names: Sequence[str] = (await conn.execute(select(api_keys.c.name))).scalars().all()
    if not wanted:
        return None if names else (await create_key(conn, FIRST, "admin"))[1]
    plain = _usable(wanted)
    stored = (await conn.execute(select(api_keys).where(api_keys.c.hash == digest(plain)))).first()
    if stored is None:
        name = f"env-{digest(plain)[:8]}" if FIRST in names else FIRST
        await create_key(conn, name, "admin", plain)
    elif stored.revoked_at is not None:
        raise KeyRefused(
            f"SPARKGATE_API_KEY holds the key '{stored.name}', which is revoked; set another one"
        )
    return plain


def _usable(key: str) -> str:
    if len(key) < MIN_KEY_CHARS or not key.isascii() or any(c.isspace() or not c.isprintable() for c in key):
        raise KeyRefused(
            f"a key should be at least {MIN_KEY_CHARS} ASCII characters without spaces; "
            "leave SPARKGATE_API_KEY unset to have one made"
        )
    return key


def _row(name: str, scope: Scope, plain: str) -> dict[str, Any]:
    return {
        "id": uuid4(),
        "name": name,
        "hash": digest(plain),
        "prefix": shown_prefix(plain),
        "scope": scope,
    }


async def _why_taken(conn: AsyncConnection, name: str) -> str:
    row = (await conn.execute(select(api_keys.c.revoked_at).where(api_keys.c.name == name))).first()
    if row is None:
        return "this key is stored already, under another name"
    state = "was used by a key that is revoked" if row.revoked_at else "is taken"
    return f"the name '{name}' {state}; the ledger tells callers apart by it, so choose another"


def _checked(terms: Terms) -> dict[str, Any]:
    """The terms as values of columns. Raises KeyRefused naming the first that makes no sense."""
    values: dict[str, Any] = dict(terms)
    for name, value in values.items():
        if name in ("allowed_models", "tags"):
            _check_texts(name, value)
            values[name] = list(value)
        elif name != "expires_at" and value is not None and not 0 < value <= MAX_LIMIT:
            raise KeyRefused(f"{name} should be above 0 and at most {MAX_LIMIT}; left out, there is no limit")
    return values


def _check_texts(name: str, values: Sequence[str]) -> None:
    if len(values) > MAX_TEXTS:
        raise KeyRefused(f"{name} should have at most {MAX_TEXTS} entries, not {len(values)}")
    for value in values:
        if not value.strip() or len(value) > MAX_TEXT_CHARS or not value.isprintable():
            raise KeyRefused(f"{name}: {value[:40]!r} should be 1 to {MAX_TEXT_CHARS} printable characters")


def _key(row: Row[Any]) -> Key:
    daily, monthly = (None if usd is None else int(usd * 10**9) for usd in (row.daily_usd, row.monthly_usd))
    limits = KeyLimits(tuple(row.allowed_models), row.rpm, row.tpm, row.parallel, daily, monthly)
    expires_at = None if row.expires_at is None else row.expires_at.timestamp()
    return Key(row.id, row.name, row.prefix, row.scope, limits, tuple(row.tags), expires_at)


def _stored(row: Row[Any]) -> StoredKey:
    terms = cast(Terms, {name: getattr(row, name) for name in Terms.__annotations__})
    return StoredKey(row.id, row.name, row.prefix, row.scope, row.created_at, row.revoked_at, terms)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    return float(value) if isinstance(value, Decimal) else value
