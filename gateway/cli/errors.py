"""Every error a command may meet, as one clear message.

In: an exception that reached `main`. Out: the text for stderr, or None for one that nobody expected. Classes
are looked up only after something went wrong, and only in libraries that are loaded already.
"""

from __future__ import annotations

import sys
from typing import Any


def message_of(error: BaseException) -> str | None:
    """What to tell the user; None when the error is not one of those we know."""
    own = _own_message(error)
    if own is not None:
        return own
    if _is(error, "sqlalchemy.exc", "DBAPIError"):
        return _database_message(error)
    if _is(error, "sqlalchemy.exc", "TimeoutError"):
        return "the database has no free connection; try again, or raise its max_connections"
    if _is(error, "httpx", "RequestError"):
        return f"no answer from {getattr(error, 'request', None) and error.request.url}: {error}"  # type: ignore[attr-defined]
    if _is(error, "alembic.util", "CommandError"):
        return f"the database's tables do not fit this version: {error}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return None


def _own_message(error: BaseException) -> str | None:
    from gateway.cli.output import Refused
    from gateway.config.mistakes import ConfigError

    known: tuple[Any, ...] = (Refused, ConfigError)
    for module, names in _OWN:
        loaded = sys.modules.get(module)
        known += tuple(getattr(loaded, name) for name in names) if loaded else ()
    return str(error) if isinstance(error, known) else None


_OWN = (
    ("gateway.ledger.errors", ("LedgerError",)),
    ("gateway.callers.store", ("KeyRefused",)),
    ("gateway.supervise.ports", ("PortTaken",)),
    ("gateway.supervise.lock", ("AlreadyRunning",)),
    ("gateway.supervise.parts", ("PartMissing",)),
)


def _is(error: BaseException, module: str, name: str) -> bool:
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(error, getattr(loaded, name))


def _database_message(error: Any) -> str:
    """The driver's own first line; SQL and parameters stay out, they may hold secrets."""
    cause = error.orig
    sqlstate = getattr(cause, "sqlstate", None)
    if sqlstate in ("42P01", "42703"):  # undefined table, undefined column
        return "the database lacks tables of this version; run `sparkgate db upgrade`"
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    if sqlstate is None or sqlstate.startswith("08"):  # no session, or lost
        return f"the database cannot be reached: {lines[0]}. Check database_url and whether it runs."
    return f"the database refused: {lines[0]}"
