"""The data plane's HTTP inside uvicorn: POSTs to given paths are served here, every other request goes to the ASGI app.

In: a connection's bytes. Out: for each such POST, once its body is whole, a task of `handler(request, client)`, which
is cancelled at once when the client leaves. Requests of one connection take turns in the order they came, whoever
serves them; none is upgraded. Knows no keys, no JSON and no policy. A `Client` stands in uvicorn's pipeline as one of
its cycles: this is written against the insides of uvicorn 0.54.
"""

from __future__ import annotations

import asyncio
import logging
import time
import urllib.parse
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.upstreams.http_client import header_lines
from gateway.wire.errors import error_value

log = logging.getLogger(__name__)
MAX_HEADERS = 256
MAX_QUEUED = 8  # pipelined requests that wait for their turn; with more, the connection is not read
LINGER_S = 5.0  # how long a refused client may go on sending, so that it gets to read why
OFFERS = (b"connection", b"upgrade", b"http2-settings")


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one request."""

    body_bytes: int = 20 * 1024 * 1024
    head_bytes: int = 64 * 1024
    head_s: float = 10.0  # from its first byte to the end of its headers
    body_idle_s: float = 30.0  # between two pieces of its body


@dataclass(slots=True)
class Request:
    """A whole request. `headers`: names in lower case; of a repeated one the last value."""

    path: str
    query: bytes
    headers: dict[str, str]
    body: bytes
    arrived: float  # when the headers were complete, on the monotonic clock


Handler = Callable[[Request, "Client"], Coroutine[Any, Any, None]]


def data_plane(
    paths: frozenset[str], handler: Handler, limits: Limits | None = None
) -> type[HttpToolsProtocol]:
    """The class to give uvicorn as `http`. Paths are compared as they were sent, without `root_path`."""

    class DataPlane(_Connection):
        _plane = _Plane({path.encode(): path for path in paths}, handler, limits or Limits())

    return DataPlane


@dataclass(frozen=True, slots=True)
class _Plane:
    """What all connections share."""

    paths: Mapping[bytes, str]
    handler: Handler
    limits: Limits


class Client(RequestResponseCycle):
    """The way back to the caller: `respond` with a whole answer, or `start`, `write` and `end` a stream.

    Waits while the caller reads too slowly; raises `CancelledError` once it has left.
    """

    def __init__(
        self,
        connection: _Connection,
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
        self.refusal: _Refusal | None = None
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
            message = "the gateway failed on this call; its log says why"
            self.answer(500, {}, _error_body("internal_error", message))

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


class _Connection(HttpToolsProtocol):
    """One connection. The parser calls the `on_` methods, which may raise `_Refusal`."""

    _plane: ClassVar[_Plane]
    _common: ClassVar[tuple[object, bytes]] = (None, b"")

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._limits = self._plane.limits
        self._phase = _BETWEEN
        self._receiving: Client | None = None  # whose body comes in
        self._parts: list[bytes] = []
        self._body_bytes = 0
        self._idle_bytes = 0  # read since the last that were of a body
        self._turn: RequestResponseCycle | None = None  # who is being served, or was last
        self._is_deaf = False  # nothing more is read from this client
        self._timer: asyncio.TimerHandle | None = None  # of a request on its way, and of lingering
        self._idle_since = 0.0

    def common_lines(self) -> bytes:
        """The header lines that every answer has: uvicorn's list, which it renews once a second for the date."""
        listed, lines = self._common
        if listed is not self.server_state.default_headers:
            listed = self.server_state.default_headers
            lines = b"".join([b"%b: %b\r\n" % header for header in listed])
            type(self)._common = listed, lines
        return lines

    def hang_up(self) -> None:
        """Closes after an answer. To close on a client that still sends would take the answer from it."""
        if not self._is_deaf:
            self.transport.close()
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_S, self.transport.abort)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._rest()

    def connection_lost(self, error: Exception | None) -> None:
        self._leave()
        self._stop_timer()
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        self.cycle = None if isinstance(self._turn, Client) else self._turn  # type: ignore[assignment]
        super().connection_lost(error)

    def eof_received(self) -> None:
        """Half-closed is gone: nobody who waits for an answer says that it has nothing more to say."""
        self._leave()

    def _leave(self) -> None:
        client = self._turn
        if isinstance(client, Client) and not client.response_complete:
            client.disconnected = True
            if client.task is not None:
                client.task.cancel()

    # Reading.

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        self._idle_bytes += len(data)
        behind_upgrade: bytes | None = None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            behind_upgrade = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            self._refuse(_refusal_of(error))
            return
        if behind_upgrade is not None:
            self._pass_over_upgrade(behind_upgrade)
        elif self._phase == _BETWEEN:
            self._idle_bytes = 0
        else:
            self._await_rest()

    def _await_rest(self) -> None:
        """The request is not whole yet: its time and its useless bytes are limited."""
        if self._idle_bytes > self._limits.head_bytes:
            self._refuse(_too_large_head(self._limits))
        elif self._phase == _HEAD:
            if self._timer is None:
                self._timer = self.loop.call_later(self._limits.head_s, self._too_slow)
        elif self._receiving is not None:
            self._stop_timer()
            self._timer = self.loop.call_later(self._limits.body_idle_s, self._too_slow)

    def _too_slow(self) -> None:
        self._timer = None
        if self.flow.read_paused:
            self._await_rest()
        else:
            what = "headers" if self._phase == _HEAD else "body"
            self._refuse(_Refusal(408, "request_timeout", f"the request's {what} did not come in time"))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, refusal: _Refusal) -> None:
        """Answered in its turn; from now on nothing is read."""
        self._is_deaf = True
        self._stop_timer()
        client = self._receiving
        if client is not None:
            client.refusal, client.keep_alive = refusal, False
            if self._turn is client:
                self._answer_refusal(client)
        elif self._phase == _BODY:  # of a request that the app already serves
            self.transport.close()
        else:
            client = Client(self, None)
            client.refusal = refusal
            self._queue(client)

    def _answer_refusal(self, client: Client) -> None:
        assert client.refusal is not None
        client.answer(client.refusal.status, {}, _error_body(client.refusal.code, client.refusal.message))

    def _pass_over_upgrade(self, rest: bytes) -> None:
        """An offer to switch protocols, as Java's HTTP client makes with every call, need not be taken up."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":
            self._refuse(_Refusal(400, "invalid_request", "this is no proxy"))
            return
        kept = [b"%b: %b\r\n" % header for header in self.headers if header[0].lower() not in OFFERS]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._idle_bytes = 0
        head = b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version.encode(), b"".join(kept))
        self.data_received(head + rest)

    def on_message_begin(self) -> None:
        self._phase = _HEAD
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase == _HEAD:  # else a trailer
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._timer is not None:
            self._stop_timer()
        if self.parser.should_upgrade():
            return
        headers = self.headers
        if len(headers) > MAX_HEADERS or (
            self._idle_bytes > self._limits.head_bytes
            and sum(len(name) + len(value) + 4 for name, value in headers) > self._limits.head_bytes
        ):
            raise _too_large_head(self._limits)
        if self.parser.get_method() == b"POST":
            path, query = self._plane.paths.get(self.url), b""
            if path is None:
                path, query = self._split_url()
            if path is not None:
                self._begin(path, query)
                return
        self._hand_over()

    def _split_url(self) -> tuple[str | None, bytes]:
        parts = httptools.parse_url(self.url)
        path = urllib.parse.unquote_to_bytes(parts.path or b"")
        return self._plane.paths.get(path), parts.query or b""

    def _begin(self, path: str, query: bytes) -> None:
        """A call of the data plane, whose body is still to come."""
        headers = {name.lower().decode(): value.decode("latin-1") for name, value in self.headers}
        if int(headers.get("content-length", 0)) > self._limits.body_bytes:
            raise _too_large_body(self._limits)
        is_http_11 = self.parser.get_http_version() == "1.1"
        keep_alive = is_http_11 and self.parser.should_keep_alive()
        request = Request(path, query, headers, b"", time.monotonic())
        client = Client(self, request, is_http_11=is_http_11, keep_alive=keep_alive)
        self._phase, self._receiving = _BODY, client
        self._queue(client)

    def _hand_over(self) -> None:
        """A request for the app: uvicorn's own callbacks, one after the other."""
        url, headers = self.url, self.headers
        self._phase = _BODY
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        super().on_headers_complete()
        if len(self.pipeline) < MAX_QUEUED:
            self.flow.resume_reading()

    def on_body(self, data: bytes) -> None:
        self._idle_bytes = 0
        if self._receiving is None:
            super().on_body(data)
            return
        self._body_bytes += len(data)
        if self._body_bytes > self._limits.body_bytes:
            raise _too_large_body(self._limits)
        self._parts.append(data)

    def on_message_complete(self) -> None:
        self._phase = _BETWEEN
        if self._timer is not None:
            self._stop_timer()
        client, self._receiving = self._receiving, None
        if client is not None:
            assert client.request is not None
            client.request.body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            client.is_whole = True
            self._parts = []
            self._body_bytes = 0
            if self._turn is client:
                self._run(client)
        elif not self.parser.should_upgrade():
            super().on_message_complete()

    # Serving.

    def _queue(self, client: Client) -> None:
        last, self.cycle = self.cycle, client
        if last is None or last.response_complete:
            self._start_asgi_task(client, self.app)
            return
        self.pipeline.appendleft((client, self.app))
        if len(self.pipeline) >= MAX_QUEUED:
            self.flow.pause_reading()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """uvicorn's name for: this one's turn has come."""
        self._turn = cycle
        if not isinstance(cycle, Client):
            super()._start_asgi_task(cycle, app)
        elif cycle.refusal is not None:
            self._answer_refusal(cycle)
        elif cycle.is_whole:
            self._run(cycle)
        elif cycle.request is not None and cycle.request.headers.get("expect", "").lower() == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _run(self, client: Client) -> None:
        assert client.request is not None
        client.task = self.loop.create_task(self._plane.handler(client.request, client))
        client.task.add_done_callback(client.served)
        self.tasks.add(client.task)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._rest()

    def _rest(self) -> None:
        """Nothing to do. The timer is armed once and looks then how long that has been so, which is cheaper."""
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        due = self._idle_since + self.timeout_keep_alive
        if self._phase != _BETWEEN or (self.cycle is not None and not self.cycle.response_complete):
            self._rest()
        elif self.loop.time() < due:
            self.timeout_keep_alive_task = self.loop.call_at(due, self.timeout_keep_alive_handler)
        elif self.transport.get_write_buffer_size():  # it does not even take its answer
            self.transport.abort()
        else:
            self.transport.close()


_BETWEEN, _HEAD, _BODY = range(3)  # of two requests, in a request's head, in its body


class _Refusal(Exception):
    """The request is not served, nor are later ones of its connection."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def _too_large_head(limits: Limits) -> _Refusal:
    message = f"the headers are more than {MAX_HEADERS} or larger than {limits.head_bytes // 1024} KiB"
    return _Refusal(431, "headers_too_large", message)


def _too_large_body(limits: Limits) -> _Refusal:
    return _Refusal(413, "body_too_large", f"the body is larger than {limits.body_bytes // 1024**2} MiB")


def _refusal_of(error: httptools.HttpParserError) -> _Refusal:
    """What a callback raised, or what the parser itself did not like."""
    reason = error.__context__
    if isinstance(reason, _Refusal):
        return reason
    if reason is not None and not isinstance(reason, httptools.HttpParserError):
        log.error("a request could not be read", exc_info=reason)
    return _Refusal(400, "invalid_http", f"this is not valid HTTP/1.1: {reason or error}")


def _error_body(code: str, message: str) -> bytes:
    type_ = "server_error" if code == "internal_error" else "invalid_request_error"
    return orjson.dumps(error_value(message, type_, code))
