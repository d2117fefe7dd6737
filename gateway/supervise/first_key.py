"""Makes a database ready for callers: its tables at this version, and an API key that someone knows.

In: a database URL, the wanted key, where to keep a made one. Out: a `FirstKey` to show. The file is written
before the key's row is committed: a start killed in between makes another key, never one nobody knows.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.callers.store import ensure_first_key, load_ring
from gateway.ledger.database import create_async_engine
from gateway.supervise.banner import FirstKey


async def make_ready(database_url: str, wanted: str | None, file: Path) -> FirstKey:
    """Raises OperationalError when the database does not answer, KeyRefused for a bad `wanted`."""
    from gateway.ledger.migrate import upgrade  # alembic is slow to import, and only this start needs it

    await asyncio.to_thread(upgrade, database_url)
    return await first_key(database_url, wanted, file)


async def first_key(database_url: str, wanted: str | None, file: Path) -> FirstKey:
    engine = create_async_engine(database_url, application="sparkgate up", pool_size=1)
    try:
        async with engine.begin() as connection:
            key = await ensure_first_key(connection, wanted)
            if wanted:
                return FirstKey("given", file)
            if key is not None:
                _keep(file, key)
                return FirstKey("made", file, key)
            return FirstKey("kept" if await _is_in_force(connection, file) else "elsewhere", file)
    finally:
        await engine.dispose()


async def _is_in_force(connection: AsyncConnection, file: Path) -> bool:
    """Whether the file holds a key of this database: it may be of another one, or revoked since."""
    try:
        key = file.read_text().strip()
    except OSError:
        return False
    return (await load_ring(connection)).find(f"Bearer {key}") is not None


def _keep(file: Path, key: str) -> None:
    scratch = file.with_suffix(".new")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
        output.write(key + "\n")
    os.replace(scratch, file)
