"""Brings a database's tables to the version this code expects, and back. Alembic's own commands work as well.

In: a database URL. The revisions are in `migrations/versions`. Two processes that migrate at once take turns:
an advisory lock is held by the transaction in which all revisions run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from gateway.ledger.database import check_encoding, create_engine

_SCRIPTS = Path(__file__).resolve().parents[2] / "migrations"
_LOCK = 0x5BA2C6A7E


def upgrade(url: str, revision: str = "head") -> None:
    """Raises DatabaseUrlError when the database is not in UTF8."""
    _alone(url, lambda config: command.upgrade(config, revision))


def downgrade(url: str, revision: str) -> None:
    """`base` empties the database: every table of the ledger goes, with its rows."""
    _alone(url, lambda config: command.downgrade(config, revision))


def check(url: str) -> None:
    """Raise alembic's `CommandError` when the tables differ from `gateway.ledger.tables`."""
    _alone(url, command.check)


def revisions() -> list[str]:
    """Those that this code knows, the one it expects first."""
    return [script.revision for script in ScriptDirectory(str(_SCRIPTS)).walk_revisions()]


def _alone(url: str, action: Callable[[Config], None]) -> None:
    engine = create_engine(url, application="sparkgate migrate")
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    try:
        with engine.begin() as connection:
            check_encoding(connection)
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            config.attributes["connection"] = connection
            action(config)
    finally:
        engine.dispose()
