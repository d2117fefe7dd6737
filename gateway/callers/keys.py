"""API keys: how they are made, recognised and looked up. Pure values; storage is `callers.store`'s.

In: header values of one call. Out: the `Key` it carries, or None. A key's plain text is known only to its
holder: we keep its sha256. The look-up goes by digest, so its time says nothing about a key's characters.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal
from uuid import UUID

Scope = Literal["call", "read", "admin"]
PREFIX = "sg-"
_RANDOM_BYTES = 32  # 43 url-safe characters
_SHOWN_CHARS = 7  # "sg-" and four more: enough to tell keys apart, far too few to guess from


@dataclass(frozen=True, slots=True)
class Key:
    """A key in force. `name` is the caller's name in the ledger.

    Scope `call` may use the data plane, `read` may also read the operations endpoints, `admin` may do all.
    """

    id: UUID
    name: str
    prefix: str
    scope: Scope


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
