"""What an upstream is to dispatch: something that takes a call and gives a reply whose bytes come over time.

`Upstream.send` returns when the reply's head is known. Foreign errors are mapped here, at the edge that owns the
library: a failed connection is `Unreachable`, a stream that breaks is `CutOff`. Deadlines are dispatch's business.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol


class UpstreamError(Exception):
    """Trouble between the gateway and a target; the message is fit for the ledger (no secrets)."""


class Unreachable(UpstreamError):
    """No connection, or it closed before a reply began."""


class CutOff(UpstreamError):
    """The reply broke off after it had begun."""


class Mark(Protocol):
    """Where an upstream notes that a request goes out: from then on the target may have begun to work on it."""

    is_sent: bool


@dataclass(slots=True)
class UpstreamCall:
    """One attempt's request: path below the target's base, JSON body for this target, headers to pass on."""

    path: str  # e.g. /v1/chat/completions
    body: bytes
    stream: bool
    headers: Mapping[str, str]
    is_repeatable: bool = True  # False: it must not reach the target twice, whatever happens on the way
    mark: Mark | None = None  # of whoever wants to know whether it was sent


class Reply(Protocol):
    """A reply whose head is known. `close` frees the connection at once, read or not; it may be called twice."""

    status: int
    headers: Mapping[str, str]

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, uncut. Raises `CutOff`."""
        ...

    async def read(self) -> bytes:
        """The whole body. Raises `CutOff`."""
        ...

    def close(self) -> None: ...


class Upstream(Protocol):
    """One target, ready to be called."""

    async def send(self, call: UpstreamCall) -> Reply:
        """Raises `Unreachable`."""
        ...

    def hide(self, said: bytes) -> bytes:
        """What the target said of a failure, without our secrets: some repeat the key that they refuse."""
        ...

    async def close(self) -> None: ...


MIN_SECRET_CHARS = 6  # shorter ones are words, and without them no message could be read


def without(secrets: Iterable[str], said: bytes) -> bytes:
    """`said` with `(hidden)` where one of the secrets was."""
    for secret in secrets:
        if len(secret) >= MIN_SECRET_CHARS:
            for written in {secret, secret.replace("/", "\\/")}:  # as some write it in JSON
                said = said.replace(written.encode(), b"(hidden)")
    return said
