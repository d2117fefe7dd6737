"""API keys in Postgres: load, create, list, revoke, and the first one of a new installation.

In: an async connection inside a transaction of the caller, who commits. Out: `KeyRing`, `StoredKey`s, and
once the plain text of a new key, which is neither stored nor logged. A revoked key keeps its row and its
name: the ledger's callers are key names, and a name should not change hands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Row, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.callers.keys import Key, KeyRing, Scope, digest, new_key, shown_prefix
from gateway.ledger.tables import api_keys

FIRST = "first"
MIN_KEY_CHARS = 8
_FIRST_KEY_LOCK = 0x5BA2C6A83  # advisory lock: several processes may start on an empty database at once


class KeyRefused(Exception):
    """A key cannot be created or revoked as asked; the message says why."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One row of the list of keys."""

    id: UUID
    name: str
    prefix: str
    scope: Scope
    created_at: datetime
    revoked_at: datetime | None


async def load_ring(conn: AsyncConnection) -> KeyRing:
    """Every key that is not revoked."""
    rows = await conn.execute(select(api_keys).where(api_keys.c.revoked_at.is_(None)))
    return KeyRing((row.hash, Key(row.id, row.name, row.prefix, row.scope)) for row in rows)


async def list_keys(conn: AsyncConnection) -> list[StoredKey]:
    """All keys, revoked ones included, oldest first."""
    rows = await conn.execute(select(api_keys).order_by(api_keys.c.created_at, api_keys.c.name))
    return [_stored(row) for row in rows]


async def create_key(
    conn: AsyncConnection, name: str, scope: Scope = "call", key: str | None = None
) -> tuple[StoredKey, str]:
    """Stores a key, a new one unless `key` is given, and returns it with its plain text.

    Raises KeyRefused when the name or the key itself is taken, or cannot be used.
    """
    if not name.strip() or name != name.strip() or len(name) > 100 or not name.isprintable():
        raise KeyRefused("a key's name should be 1 to 100 printable characters without spaces around them")
    plain = new_key() if key is None else _usable(key)
    values = _row(name, scope, plain)
    rows = await conn.execute(insert(api_keys).values(values).on_conflict_do_nothing().returning(api_keys))
    row = rows.first()
    if row is None:
        raise KeyRefused(await _why_taken(conn, name))
    return _stored(row), plain


async def revoke_key(conn: AsyncConnection, name: str) -> StoredKey:
    """Takes the key out of force; gateways notice within seconds. Raises KeyRefused if there is none."""
    row = (
        await conn.execute(
            update(api_keys)
            .where(api_keys.c.name == name, api_keys.c.revoked_at.is_(None))
            .values(revoked_at=func.now())
            .returning(api_keys)
        )
    ).first()
    if row is not None:
        return _stored(row)
    known = (await conn.execute(select(api_keys.c.revoked_at).where(api_keys.c.name == name))).first()
    raise KeyRefused(f"the key '{name}' is revoked already" if known else f"no key is called '{name}'")


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


def _stored(row: Row[Any]) -> StoredKey:
    return StoredKey(row.id, row.name, row.prefix, row.scope, row.created_at, row.revoked_at)
