"""`PolicyWatch`: the policy in force. The newest published version in Postgres holds everywhere; a file publishes.

In: the policy file (may be absent), the database, the known targets. Out: `current`, a checked `Policy`, swapped
whole; the last good one stays when a file or a published text is wrong, and `error` says what is wrong with it.
"""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.config.load import load_policy, policy_hash, policy_text
from gateway.config.mistakes import ConfigError
from gateway.control.away import Away
from gateway.ledger import policies
from router.policy import Policy

log = logging.getLogger(__name__)
INTERVAL_S = 1.0  # a version is in force everywhere within 3 s


class PolicyWatch:
    """One worker's view of the policy. `start` before use, then `step` every `INTERVAL_S`."""

    def __init__(self, path: Path | None, database: AsyncEngine, target_names: tuple[str, ...]) -> None:
        self._path, self._database, self._target_names = path, database, target_names
        where = str(path.resolve()) if path else "default"
        self._source = f"file:{socket.gethostname()}:{where}"
        self._away = Away(
            log, "the policy stays, as the database is away: %s", "the policy is refreshed again"
        )
        self._seen: tuple[int, int] | None = None
        self._active_id: UUID | None = None
        self._current: Policy | None = None
        self.error: str | None = None  # of the file as it is now
        self.published_error: str | None = None  # of the newest version, if this worker cannot use it

    @property
    def current(self) -> Policy:
        assert self._current is not None, "PolicyWatch used before start()"
        return self._current

    async def start(self) -> None:
        """Publishes the file if it changed and loads the newest version. Raises `ConfigError`, `SQLAlchemyError`."""
        text = policy_text(self._path)
        self._seen = self._stamp()
        policy = load_policy(text, self._name, self._target_names)
        async with self._database.begin() as connection:
            await policies.publish_from_file(connection, self._source, policy.hash, text)
        await self._adopt_newest()
        if self._current is None:  # the newest version does not fit this gateway's targets: its own file does
            self._current = policy

    async def step(self) -> None:
        """Takes over what changed in file or database; a database that is away changes nothing."""
        try:
            if self._stamp() != self._seen:
                await self._take_file()
            await self._adopt_newest()
        except SQLAlchemyError as error:
            self._away.failed(error)
        else:
            self._away.worked()

    async def _take_file(self) -> None:
        """Publishes an edited file, or records why it is refused. Seen only once the database knows of it."""
        stamp = self._stamp()
        text = ""
        try:
            text = policy_text(self._path)
            policy = load_policy(text, self._name, self._target_names)
        except ConfigError as refused:
            self.error = str(refused)
            log.error("policy edit refused, the last good version stays:\n%s", refused)
            async with self._database.begin() as connection:
                await policies.record_refused(connection, self._source, policy_hash(text), text, self.error)
        else:
            self.error = None
            async with self._database.begin() as connection:
                await policies.publish_from_file(connection, self._source, policy.hash, text)
        self._seen = stamp

    async def _adopt_newest(self) -> None:
        async with self._database.connect() as connection:
            newest = await policies.newest_active(connection)
        if newest is None or newest.id == self._active_id:
            return
        self._active_id = newest.id
        try:
            policy = load_policy(newest.yaml, newest.source, self._target_names)
        except ConfigError as refused:
            self.published_error = str(refused)
            log.error(
                "published policy %s does not fit this gateway, kept the last:\n%s", newest.hash, refused
            )
            return
        self.published_error = None
        self._current = policy
        log.info("policy %s in force, from %s", newest.hash, newest.source)

    @property
    def _name(self) -> str:
        return self._path.name if self._path else "default policy"

    def _stamp(self) -> tuple[int, int] | None:
        """Changes when the file does; None while there is no file."""
        try:
            stat = self._path.stat() if self._path else None
        except OSError:
            return None
        return (stat.st_mtime_ns, stat.st_size) if stat else None
