"""`Client`: the way back to who has sent a request, as one answer or as a stream.

In: status, headers and body. Out: HTTP/1.1 on the connection, chunked where the length is not known beforehand. Knows
no keys, no JSON and no policy.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from gateway.http.request import Request
from gateway.upstreams.http_pool import header_lines
from gateway.wire.errors import GatewayError

log = logging.getLogger(__name__)


class Connection(Protocol):
    """What a client needs of the connection it is on."""

    flow: FlowControl
    transport: asyncio.Transport
    tasks: set[asyncio.Task[None]]

    def common_lines(self) -> bytes: ...

    def error_body(self, error: GatewayError, path: str | None) -> bytes: ...

    def hang_up(self) -> None: ...

    def on_response_complete(self) -> None: ...


class Client(RequestResponseCycle):
    """The way back to the caller: `respond` with a whole answer, or `start`, `write` and `end` a stream.

    Waits while the caller reads too slowly; raises `CancelledError` once it has left.
    """

    path: str | None = None  # of a request that never became one, as far as it was read

    def __init__(
        self,
        connection: Connection,
        request: Request | None,
        *,
        is_http_11: bool = True,
        keep_alive: bool = False,
    ) -> None:
        self.keep_alive = keep_alive  # these three are all that uvicorn's protocol looks at
        self.response_complete = False
        self.disconnected = False

        self.is_started = False
        self.request = request
        self.is_whole = False  # the request
        self.refusal: GatewayError | None = None  # why it will not be served
        self.task: asyncio.Task[None] | None = None
        self._connection = connection
        self._is_chunked = is_http_11
        self._head = b""  # empty again once it has left

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Begins a stream; the head leaves with the first piece. How the body is framed is not for `headers` to say."""
        framing = b"Transfer-Encoding: chunked\r\n" if self._is_chunked else b""
        self._head = self._head_of(status, headers, framing)
        self.is_started = True

    async def write(self, data: bytes) -> None:
        if data:
            await self._send(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)

    async def end(self, data: bytes = b"") -> None:
        if self._is_chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        await self._send(data)
        self._complete()

    async def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """A whole answer at once, JSON unless `headers` have another `Content-Type`."""
        if self.disconnected or self.response_complete or self._connection.flow.write_paused:
            await self._room()
        self.answer(status, headers, body)

    def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """`respond` for those who cannot wait."""
        kind = b"" if "Content-Type" in headers else b"Content-Type: application/json\r\n"
        head = self._head_of(status, headers, b"%bContent-Length: %d\r\n" % (kind, len(body)))
        self.is_started = True
        self._connection.transport.write(head + body)
        self._complete()

    def served(self, task: asyncio.Task[None]) -> None:
        """The handler has ended. What it left without an answer gets a 500, or a cut where the answer had begun."""
        connection = self._connection
        connection.tasks.discard(task)
        is_owed = not (self.response_complete or self.disconnected)
        if task.cancelled():
            if is_owed:  # the server's patience has ended
                connection.transport.abort()
            return
        error = task.exception()
        if error is not None or is_owed:
            log.error("a call failed inside the gateway, or got no answer", exc_info=error)
        if is_owed and self.is_started and not self._head:
            connection.transport.close()
        elif is_owed:
            self.fail(GatewayError("the gateway failed on this call; its log says why"))

    def fail(self, error: GatewayError) -> None:
        """An error for an answer."""
        path = self.request.path if self.request is not None else self.path
        self.answer(error.status, {}, self._connection.error_body(error, path))

    async def _send(self, data: bytes) -> None:
        if self.disconnected or self.response_complete or self._connection.flow.write_paused:
            await self._room()
        if self._head:
            data, self._head = self._head + data, b""
        self._connection.transport.write(data)

    async def _room(self) -> None:
        if self.response_complete:
            raise RuntimeError("the answer is complete: nothing can be added to it")
        flow = self._connection.flow
        while flow.write_paused and not self.disconnected:
            await flow.drain()
        if self.disconnected:
            raise asyncio.CancelledError("the client has left")

    def _head_of(self, status: int, headers: Mapping[str, str], framing: bytes) -> bytes:
        close = b"" if self.keep_alive else b"Connection: close\r\n"
        common = self._connection.common_lines()
        return b"".join((STATUS_LINE[status], common, header_lines(headers), framing, close, b"\r\n"))

    def _complete(self) -> None:
        self.response_complete = True
        if not self.keep_alive:
            self._connection.hang_up()
        self._connection.on_response_complete()
