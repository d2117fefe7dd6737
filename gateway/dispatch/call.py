"""`Call`: one client call as a surface hands it to dispatch, and `Client`: the way back to it.

In: parsed requests, ASGI `send`. Out: values for `relay`. Knows no policy and no upstream.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from router.catalog import Target
from router.query import Query

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]


@dataclass(frozen=True, slots=True)
class Call:
    """What to route, and how its body reads for a given target."""

    query: Query
    path: str
    body_for: Callable[[Target], dict[str, Any]]
    wants_usage: bool  # False: usage in the stream was only our wish, so the chunk that carries it is dropped
    pass_headers: Mapping[str, str] = field(default_factory=dict)


class Client:
    """Writes one response. Nothing, headers included, leaves before `start`."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.is_started = False

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        self.is_started = True
        raw = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """A whole JSON response at once."""
        head = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
        await self.start(status, head)
        await self.end(body)

    async def write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": False})
