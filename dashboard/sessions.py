"""Who is signed in: sessions in the memory of this process, opened with API keys that the ledger knows.

In: keys and session tokens as plain text. Out: `Reader`s. Both are looked up by their sha256, so that the time it
takes says nothing of their characters. A key is kept for as long as its session, to call the gateway's admin API with,
and is written nowhere. Knows neither HTTP nor pages.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from threading import Lock
from typing import NamedTuple

from sqlalchemy import Engine

from dashboard.database import LedgerUnavailable, connect, read

URL_VARIABLE = "SPARKGATE_DATABASE_URL"
SCOPES = ("admin", "read")  # those that may look; `read` may not edit
LASTS_S = 12 * 3600.0
CONFIRMED_EVERY_S = 30.0  # how long a revoked key may go on looking
WRONG_KEYS, WITHIN_S = 5, 60.0  # as many may be tried from one address in so long


class Known(NamedTuple):
    """A key in force."""

    name: str
    scope: str


@dataclass(frozen=True, slots=True)
class Reader:
    """Who looks at the pages."""

    name: str
    scope: str
    key: str = field(repr=False)

    @property
    def may_edit(self) -> bool:
        return self.scope == "admin"


class Refused(Exception):
    """No session for this key; the message is for its holder."""


class TriedTooOften(Refused):
    def __init__(self, wait_s: float) -> None:
        super().__init__(f"Too many wrong keys from your address. Try again in {wait_s:.0f} s.")
        self.wait_s = wait_s


@dataclass(slots=True)
class _Session:
    reader: Reader
    ends_at: float
    confirmed_at: float


class Sessions:
    """`known` finds a key by its sha256 and may raise LedgerUnavailable; `now` gives monotonic seconds."""

    def __init__(
        self, known: Callable[[str], Known | None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._known, self._now, self._lock = known, now, Lock()
        self._open: dict[str, _Session] = {}
        self._tried: dict[str, list[float]] = {}

    def open(self, key: str, address: str) -> str:
        """The token of a new session. Raises Refused and LedgerUnavailable."""
        self._count_try(address)
        known = self._known(digest(key))
        if known is None:
            raise Refused("This key is unknown, expired or revoked.")
        if known.scope not in SCOPES:
            raise Refused(
                f"This key has scope {known.scope}; the dashboard wants one of scope admin or read."
            )
        token, now = secrets.token_urlsafe(32), self._now()
        with self._lock:
            self._tried.pop(address, None)
            self._open = {name: it for name, it in self._open.items() if it.ends_at > now}
            self._open[digest(token)] = _Session(Reader(*known, key), now + LASTS_S, now)
        return token

    def find(self, token: str | None) -> Reader | None:
        """Who holds this token, as far as this process knows: asks nobody."""
        session = self._open.get(digest(token)) if token else None
        return session.reader if session is not None and session.ends_at > self._now() else None

    def confirm(self, token: str | None) -> Reader | None:
        """The same, and every half a minute the ledger is asked whether the key still stands."""
        reader = self.find(token)
        if reader is None or token is None:
            return None
        session, now = self._open.get(digest(token)), self._now()
        if session is not None and now - session.confirmed_at > CONFIRMED_EVERY_S:
            try:
                known = self._known(digest(reader.key))
            except LedgerUnavailable:
                return reader  # nobody can tell; there is nothing to be seen either
            if known != (reader.name, reader.scope):
                self.end(token)
                return None
            session.confirmed_at = now
        return reader

    def end(self, token: str | None) -> None:
        with self._lock:
            self._open.pop(digest(token or ""), None)

    def _count_try(self, address: str) -> None:
        """Before anybody knows whether the key is right: many tried at once are as many."""
        now = self._now()
        with self._lock:
            recent = {who: [at for at in tries if now - at < WITHIN_S] for who, tries in self._tried.items()}
            self._tried = {who: tries for who, tries in recent.items() if tries}
            tries = self._tried.setdefault(address, [])
            if len(tries) >= WRONG_KEYS:
                raise TriedTooOften(max(1.0, WITHIN_S - (now - tries[0])))
            tries.append(now)


def digest(secret: str) -> str:
    """As the gateway stores keys: sha256 in hex."""
    return hashlib.sha256(secret.encode("utf-8", "backslashreplace")).hexdigest()


def ledger_url() -> str:
    """Raises LedgerUnavailable."""
    url = os.environ.get(URL_VARIABLE)
    if not url:
        raise LedgerUnavailable(
            f"{URL_VARIABLE} is not set",
            "Start the dashboard with `sparkgate dashboard`, or set the variable.",
        )
    return url


@cache
def _pool(url: str) -> Engine:
    return connect(url)


def _in_ledger(key_digest: str) -> Known | None:
    found = read(
        _pool(ledger_url()),
        """SELECT name, scope FROM api_keys WHERE hash = :hash AND revoked_at IS NULL
           AND (expires_at IS NULL OR expires_at > now())""",
        hash=key_digest,
    )
    return None if found.empty else Known(*found.iloc[0])


SESSIONS = Sessions(_in_ledger)
