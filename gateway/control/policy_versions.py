"""Stored versions of the policy: listed, published, and rolled back to, for the admin API and the command line alike.

In: a database, texts, the known targets. Out: versions as JSON values. What is published here is in force on every
gateway of the database within 3 s; nothing is ever changed or removed, a rollback is the old text published again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.config.load import load_policy
from gateway.config.mistakes import ConfigError, Mistake
from gateway.ledger import policies

ROLLBACK = "rollback"  # as a version's source


async def versions(database: AsyncEngine, limit: int) -> list[dict[str, Any]]:
    """Newest first; the one in force is `active`."""
    async with database.connect() as connection:
        active = await policies.newest_active(connection)
        found = await policies.recent(connection, limit)
    return [
        _listed(version) | {"active": active is not None and version.id == active.id} for version in found
    ]


async def show(database: AsyncEngine, which: str | None) -> dict[str, Any]:
    """One version with its text; None = the one in force. Raises `NoSuchVersion`."""
    async with database.connect() as connection:
        active = await policies.newest_active(connection)
        if which is None:
            if active is None:
                raise policies.NoSuchVersion("no policy was published yet; a gateway's start publishes one")
            which = str(active.id)
        found = await policies.find(connection, which)
    return _listed(found) | {"active": active is not None and found.id == active.id, "yaml": found.yaml}


async def publish(
    database: AsyncEngine,
    source: str,
    name: str,
    text: str,
    targets: Collection[str],
    based_on: str | None = None,
) -> str:
    """The hash of the text, which is in force from now on. Raises `ConfigError` and, by `based_on`, `Superseded`."""
    policy = await asyncio.to_thread(load_policy, text, name, targets)  # a long text takes seconds
    async with database.begin() as connection:
        await policies.publish(connection, source, policy.hash, text, based_on)
    return policy.hash


async def roll_back(
    database: AsyncEngine,
    which: str,
    targets: Collection[str],
    source: str = ROLLBACK,
    based_on: str | None = None,
) -> dict[str, Any]:
    """The version that is in force now, which is in force already if `unchanged`. The old text must still be right.

    Raises `NoSuchVersion`, `ConfigError` and, by `based_on`, the hash of the version to be left, `Superseded`.
    """
    async with database.connect() as connection:
        found = await policies.find(connection, which)
        active = await policies.newest_active(connection)
    is_unchanged = active is not None and active.hash == found.hash
    if not is_unchanged:
        name = f"version {found.hash}"
        if found.error is not None:
            raise ConfigError([Mistake(name, None, "", f"was refused when it was new: {found.error}")])
        await publish(database, source, name, found.yaml, targets, based_on)
    return {"object": "policy", "hash": found.hash, "yaml": found.yaml, "unchanged": is_unchanged}


def _listed(version: policies.PolicyVersion | policies.StoredPolicy) -> dict[str, Any]:
    return {
        "id": str(version.id),
        "hash": version.hash,
        "source": version.source,
        "published_at": version.published_at.isoformat(),
        "error": version.error,
    }
