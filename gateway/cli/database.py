"""The ledger's database for the time of one command.

In: the options that say which. Out: its URL, or the result of an async action on it. The embedded Postgres is
adopted when it runs, else started and stopped again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gateway.cli import options

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

Result = TypeVar("Result")


@contextmanager
def database(config: Path | None, data_dir: Path) -> Iterator[str]:
    """The URL. A new embedded database gets its tables; a server's are made by `db upgrade` or `up` only."""
    from gateway.ledger import embedded
    from gateway.ledger.database import with_driver
    from gateway.ledger.migrate import upgrade

    database_url = options.loaded_deployment(config).deployment.database_url
    if database_url != "embedded":
        yield with_driver(database_url)
        return
    folder = data_dir.expanduser()
    is_new = not (folder / "pg").exists()
    with embedded.running(folder) as url:
        if is_new:
            upgrade(url)
        yield url


def ask(config: Path | None, data_dir: Path, action: Callable[[AsyncEngine], Awaitable[Result]]) -> Result:
    """What `action` returns, given an engine on the database."""
    with database(config, data_dir) as url:
        return asyncio.run(_with_engine(url, action))


async def _with_engine(url: str, action: Callable[[AsyncEngine], Awaitable[Result]]) -> Result:
    from gateway.ledger.database import create_async_engine

    engine = create_async_engine(url, application="sparkgate cli")
    try:
        return await action(engine)
    finally:
        await engine.dispose()
