"""Versions of policy.yaml in Postgres: the newest row without an error is active everywhere.

In: a connection inside a transaction of the caller, text that was checked elsewhere. Rows are only added: a
rollback is the old text published again. Knows no YAML and no files.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.errors import LedgerError
from gateway.ledger.records import uuid7
from gateway.ledger.tables import policies

_LOCK = 0x5BA2C6A80


class ActivePolicy(NamedTuple):
    """The version in force."""

    id: UUID
    hash: str
    yaml: str
    source: str
    published_at: datetime


class PolicyVersion(NamedTuple):
    """One version for lists; `error` says why it was refused."""

    id: UUID
    hash: str
    source: str
    published_at: datetime
    error: str | None


class StoredPolicy(NamedTuple):
    """One version with its text."""

    id: UUID
    hash: str
    yaml: str
    source: str
    published_at: datetime
    error: str | None


class NoSuchVersion(LedgerError):
    """No stored policy, or several, answer to that id or hash."""


class Superseded(LedgerError):
    """Another version came into force since the one that a new text was made from."""


async def newest_active(connection: AsyncConnection) -> ActivePolicy | None:
    query = select(*(policies.c[name] for name in ActivePolicy._fields))
    row = (
        await connection.execute(
            query.where(policies.c.error.is_(None)).order_by(policies.c.id.desc()).limit(1)
        )
    ).first()
    return ActivePolicy(*row) if row else None


async def recent(connection: AsyncConnection, limit: int = 50) -> list[PolicyVersion]:
    """Newest first, refused ones included."""
    names = [policies.c[name] for name in PolicyVersion._fields]
    rows = await connection.execute(select(*names).order_by(policies.c.id.desc()).limit(limit))
    return [PolicyVersion(*row) for row in rows]


async def find(connection: AsyncConnection, which: str) -> StoredPolicy:
    """The version of this id, or the newest of this hash, which may be cut short. Raises `NoSuchVersion`."""
    names = [policies.c[name] for name in StoredPolicy._fields]
    query = select(*names).order_by(policies.c.error.is_(None).desc(), policies.c.id.desc())
    wanted = which.strip().lower()
    try:
        query = query.where(policies.c.id == UUID(wanted))
    except ValueError:
        query = query.where(policies.c.hash.startswith(wanted, autoescape=True))
    can_be = bool(wanted) and wanted.isprintable()  # Postgres takes no NUL
    found = [StoredPolicy(*row) for row in await connection.execute(query)] if can_be else []
    hashes = list(dict.fromkeys(version.hash for version in found))
    if len(hashes) == 1:
        return found[0]
    why = f"several begin so: {', '.join(hashes)}" if hashes else "`sparkgate policy versions` lists them"
    raise NoSuchVersion(f"no version of the policy is '{which}'; {why}")


async def texts_by_hash(connection: AsyncConnection) -> dict[str, str]:
    """The text of every version that was ever in force."""
    query = select(policies.c.hash, policies.c.yaml).where(policies.c.error.is_(None))
    return {row[0]: row[1] for row in await connection.execute(query)}


async def publish(
    connection: AsyncConnection, source: str, policy_hash: str, yaml: str, based_on: str | None = None
) -> UUID:
    """Make this text the active version, as the dashboard and the API do.

    `based_on` is the hash of the version that it was made from: raises `Superseded` when another one is in force.
    """
    await _take_turns(connection)
    if based_on is not None:
        newest = await newest_active(connection)
        if newest is not None and newest.hash != based_on:
            raise Superseded(
                f"version {newest.hash}, from {newest.source}, was published at "
                f"{newest.published_at.isoformat(timespec='seconds')}; this text was made from {based_on}"
            )
    return await _add(connection, source, policy_hash, yaml, None)


async def publish_from_file(connection: AsyncConnection, source: str, policy_hash: str, yaml: str) -> bool:
    """Publish, unless this is what `source` published or was refused last: a file that did not change is
    silent.
    """
    await _take_turns(connection)
    if await _last_hash(connection, source) == policy_hash:
        return False
    await _add(connection, source, policy_hash, yaml, None)
    return True


async def record_refused(
    connection: AsyncConnection, source: str, policy_hash: str, yaml: str, error: str
) -> bool:
    """Keep a text that failed its check, once however many workers saw it. It never becomes active."""
    await _take_turns(connection)
    if await _last_hash(connection, source) == policy_hash:
        return False
    await _add(connection, source, policy_hash, yaml, error)
    return True


async def _take_turns(connection: AsyncConnection) -> None:
    """Until the transaction ends nobody else publishes, so that workers that saw the same change publish
    once.
    """
    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


async def _last_hash(connection: AsyncConnection, source: str) -> str | None:
    query = select(policies.c.hash).where(policies.c.source == source).order_by(policies.c.id.desc()).limit(1)
    found: str | None = await connection.scalar(query)
    return found


async def _add(
    connection: AsyncConnection, source: str, policy_hash: str, yaml: str, error: str | None
) -> UUID:
    """Ids are the order of publishing, also when another host's clock is ahead of ours."""
    newest = await connection.scalar(select(policies.c.id).order_by(policies.c.id.desc()).limit(1))
    version = uuid7()
    if newest is not None and newest.int >> 80 >= version.int >> 80:
        version = uuid7(((newest.int >> 80) + 1.5) / 1000)
    row = {"id": version, "source": source, "hash": policy_hash, "yaml": yaml, "error": error}
    await connection.execute(insert(policies).values(row | {"published_at": func.clock_timestamp()}))
    return version
