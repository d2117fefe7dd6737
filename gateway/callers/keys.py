"""API keys: how they are made, recognised and looked up. Pure values; storage is `callers.store`'s.

In: header values of one call. Out: the `Key` it carries, or None. A key's plain text is known only to its
holder: we keep its sha256. The look-up goes by digest, so its time says nothing about a key's characters.
Holds a key to none of its limits; that is `callers.quotas`'.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal
from uuid import UUID

Scope = Literal["call", "read", "admin"]
PREFIX = "sg-"
_RANDOM_BYTES = 32  # 43 url-safe characters
_SHOWN_CHARS = 7  # "sg-" and four more: enough to tell keys apart, far too few to guess from


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """How much a key may be used; None = as much as it likes.

    `allowed_models` are shell patterns for the model names that calls ask for (not for what a name leads to),
    empty = all. `rpm` and `tpm` are calls and tokens a minute, `parallel` is calls at once. Budgets are integer
    nano-dollars a day and a calendar month, in UTC.
    """

    allowed_models: tuple[str, ...] = ()
    rpm: int | None = None
    tpm: int | None = None
    parallel: int | None = None
    daily_nusd: int | None = None
    monthly_nusd: int | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """A key in force. `name` is the caller's name in the ledger; `expires_at` is in Unix seconds.

    Scope `call` may use the data plane, `read` may also read the operations endpoints, `admin` may do all.
    """

    id: UUID
    name: str
    prefix: str
    scope: Scope
    limits: KeyLimits = field(default_factory=KeyLimits)
    tags: tuple[str, ...] = ()
    expires_at: float | None = None


class KeyRing:
    """All keys in force, by digest. Immutable: a change of keys is a new ring."""

    def __init__(self, keys: Iterable[tuple[str, Key]] = ()) -> None:
        self._keys: Mapping[str, Key] = MappingProxyType(dict(keys))

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, authorization: str | None, x_api_key: str | None = None) -> Key | None:
        """The key of `Authorization: Bearer …` (OpenAI's way) or else of `x-api-key: …` (Anthropic's)."""
        for given in (_bearer(authorization), x_api_key):
            if given and (key := self._keys.get(digest(given.strip()))):
                return key
        return None

    def in_force(self, now: float) -> KeyRing:
        """The ring without the keys that have expired by this Unix second."""
        return KeyRing(
            (digest_, key)
            for digest_, key in self._keys.items()
            if key.expires_at is None or key.expires_at > now
        )


def new_key() -> str:
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def digest(key: str) -> str:
    """sha256 in hex. A key has 256 random bits, so no salt and no slow hash are needed."""
    return hashlib.sha256(key.encode("utf-8", "backslashreplace")).hexdigest()


def shown_prefix(key: str) -> str:
    """The first characters, to recognise a key in a list; never more than a third of a short one."""
    return key[: min(_SHOWN_CHARS, len(key) // 3)]


def _bearer(authorization: str | None) -> str | None:
    scheme, _, value = (authorization or "").strip().partition(" ")
    return value if scheme.lower() == "bearer" else None
