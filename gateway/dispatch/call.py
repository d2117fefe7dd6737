"""`Call`: one client call as a surface hands it on; `Form`: how it is put to one target; `Client`: the way back.

In: parsed requests. Out: values for the walk over targets. Knows no policy and no upstream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.wire.base import Translation, Wire
from gateway.wire.errors import GatewayError
from router.catalog import Target
from router.query import Query


@dataclass(slots=True)
class Form:
    """One call as one target gets it, and how that target's answer reads. No translation = passed on byte for byte."""

    path: str
    body: bytes
    wire: Wire
    headers: Mapping[str, str] = field(default_factory=dict)
    translation: Translation | None = None


@dataclass(frozen=True, slots=True)
class ErrorForm:
    """How a surface says an error: as a whole body, and as an event of a stream that has begun."""

    body: Callable[[GatewayError], bytes]
    event: Callable[[GatewayError], bytes]


@dataclass(slots=True)
class Call:
    """What to route, and how it reads for a given target."""

    query: Query
    form_for: Callable[[Target], Form]  # raises `BadRequest` for what cannot be said to this target
    errors: ErrorForm
    wants_usage: bool = True  # False: only we wanted usage in the stream, so its chunk is dropped
    is_repeatable: bool = True  # False: has effects outside (server-side tools), so it is sent once at most
    keeps_state: bool = False  # True: it goes on from what a target keeps, or leaves something there
    fingerprint: Callable[[], bytes | None] = lambda: (
        None
    )  # equal where answers must be; None = left to chance
    history: Sequence[Any] = ()  # its messages, by which it is told what it goes on from
    goes_on_from: str | None = None  # the response or conversation that it names instead
    is_valid_json: Callable[[bytes], bool] = lambda _: True  # of an answer as the client got it


class Client(Protocol):
    """Writes one response. Nothing, headers included, leaves before `start`. Waits while the client is slow."""

    is_started: bool

    async def start(self, status: int, headers: Mapping[str, str]) -> None: ...

    async def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """A whole JSON response at once."""
        ...

    async def write(self, data: bytes) -> None: ...

    async def end(self, data: bytes = b"") -> None: ...
