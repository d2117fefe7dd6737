"""A small HTTP/1.1 client: one `Pool` of connections per origin, on asyncio's protocols and httptools.

In: a path, header lines and a body, as bytes. Out: a `Response` once its head is here; its body as it arrives. Knows
no JSON, redirects or cookies, and of time limits only the one for connecting: how long an answer may take is the
caller's business, who cancels. Whatever is cancelled or closed half-way costs its connection, nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import ssl
import zlib
from asyncio.staggered import staggered_race
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from gateway.upstreams.base import CutOff, Unreachable

MAX_CONNECTIONS = 1_000
IDLE_S = 30.0
CONNECT_WITHIN_S = 10.0
HEAD_START_S = 0.25
MAX_HEAD_BYTES = 64 * 1024
MAX_UNREAD_BYTES = 256 * 1024  # beyond, the connection is not read until someone takes what is there
MAX_DECODED_BYTES = 64 * 1024 * 1024  # of a compressed body, which nobody asked for
JOIN_BELOW_BYTES = 64 * 1024

_Place = tuple[int, int, int, str, Any]  # as `getaddrinfo` gives it


def header_lines(headers: Mapping[str, str]) -> bytes:
    """Headers as they go over the wire. Raises `ValueError` for one that would break out of its line."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\r") != len(headers) or lines.count("\n") != len(headers):
        raise ValueError(f"a line break in one of the headers {', '.join(headers)}")
    return lines.encode("latin-1", "replace")


class Response(AsyncIterator[bytes]):
    """An answer whose head is known. It owns its connection until the body is whole, or it is closed.

    `headers`: names in lower case; of a repeated one the last value.
    """

    def __init__(self, connection: _Connection) -> None:
        self.status = 0  # until the head is here
        self.headers: Mapping[str, str] = {}
        self.is_whole = False
        self.error: Unreachable | CutOff | None = None
        self._connection = connection
        self._parts: list[bytes] = []
        self._unread_bytes = 0
        self._decoder: _Decoder | None = None
        self._waiter: asyncio.Future[None] | None = None

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, what came since the last one in one piece. Raises `CutOff`."""
        return self

    async def read(self) -> bytes:
        """The whole body. Raises `CutOff`."""
        if self.is_whole:
            return self._take()
        return b"".join([chunk async for chunk in self])

    def close(self) -> None:
        """Cuts the connection, unless the body is whole. May be called twice."""
        if not (self.is_whole or self.error):
            self._connection.fail("the reply was closed before its end")

    async def __anext__(self) -> bytes:
        while not self._parts:
            if self.error is not None:
                raise self.error
            if self.is_whole:
                raise StopAsyncIteration
            await self.arrival()
        return self._take()

    def _take(self) -> bytes:
        parts, self._parts = self._parts, []
        if self.is_full and not self.is_whole and self.error is None:
            self._connection.resume()
        self._unread_bytes = 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # What follows is for the connection.

    async def arrival(self) -> None:
        """Waits until something has changed: head, body, end or error."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.status, self.headers = status, headers
        encoding = headers.get("content-encoding", "identity").lower()
        if encoding != "identity":
            self._decoder = _Decoder(encoding)

    def add(self, data: bytes) -> None:
        if self._decoder is not None:
            data = self._decoder.decode(data)
        if data:
            self._parts.append(data)
            self._unread_bytes += len(data)

    def end(self) -> None:
        if self._decoder is not None:
            self._decoder.end()
        self.is_whole = True

    def fail(self, error: Unreachable | CutOff) -> None:
        if not self.is_whole:
            self.error = error
        self.wake()

    @property
    def is_full(self) -> bool:
        return self._unread_bytes > MAX_UNREAD_BYTES

    @property
    def ends_with_connection(self) -> bool:
        """The head names no other end of the body."""
        chunked = self.headers.get("transfer-encoding", "").lower().endswith("chunked")
        return self.status != 0 and not chunked and "content-length" not in self.headers


class Pool:
    """Connections to one origin (`https://host:port`), used again, the latest first."""

    def __init__(
        self,
        origin: str,
        *,
        ssl_context: ssl.SSLContext | None = None,
        max_connections: int = MAX_CONNECTIONS,
        idle_s: float = IDLE_S,
        connect_within_s: float = CONNECT_WITHIN_S,
    ) -> None:
        parts = urlsplit(origin)
        is_tls = parts.scheme == "https"
        self._authority = parts.netloc.rpartition("@")[2]
        self._address = parts.hostname or "", parts.port or (443 if is_tls else 80)
        self._ssl = (ssl_context or _default_tls()) if is_tls else None
        self._max_connections = max_connections
        self._idle_s, self._connect_within_s = idle_s, connect_within_s
        self._fixed = (
            f" HTTP/1.1\r\nHost: {self._authority}\r\nUser-Agent: sparkgate\r\nAccept-Encoding: identity\r\n"
        ).encode()
        self._connections: set[_Connection] = set()  # connecting, at work and idle
        self._idle: deque[_Connection] = deque()
        self._waiters: deque[asyncio.Future[_Connection]] = deque()
        self._sweep: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def post(self, path: str, head: bytes, body: bytes, *, retry_stale: bool = True) -> Response:
        """Sends `body`; `head` are header lines as `header_lines` makes them. Raises `Unreachable`.

        Where a kept connection turns out to be closed, with no byte of an answer, the request is sent once more on
        a new one, unless told not to `retry_stale`.
        """
        top = b"POST %b%b%bContent-Length: %d\r\n\r\n" % (path.encode(), self._fixed, head, len(body))
        return await self._request(top, body, retry_stale)

    async def get(self, path: str, head: bytes = b"") -> Response:
        """Raises `Unreachable`."""
        return await self._request(b"GET %b%b%b\r\n" % (path.encode(), self._fixed, head), b"", True)

    async def close(self) -> None:
        """Cuts every connection; who still waits for one gets `Unreachable`."""
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(Unreachable("the gateway is closing"))
        for connection in tuple(self._connections):
            connection.fail("the gateway is closing")
        await asyncio.sleep(0)  # the loop closes the sockets

    async def _request(self, top: bytes, body: bytes, retry_stale: bool) -> Response:
        connection = self._idle.pop() if self._idle else await self._free()
        is_kept = not connection.is_new
        if not is_kept:
            await self._connect(connection)
        try:
            return await connection.ask(top, body)
        except _Silence as silence:
            if not is_kept or (silence.was_sent and not retry_stale):
                raise
        connection = self._new()
        await self._connect(connection)
        return await connection.ask(top, body)

    async def _free(self) -> _Connection:
        """A place for a new connection, or a kept one that others gave back in the meantime."""
        if len(self._connections) < self._max_connections:
            return self._new()
        waiter: asyncio.Future[_Connection] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                with contextlib.suppress(ValueError):
                    self._waiters.remove(waiter)
            elif waiter.exception() is None:
                unused = waiter.result()
                self.give_back(unused) if unused.is_connected else self.lost(unused)
            raise

    def _new(self) -> _Connection:
        connection = _Connection(self)
        self._connections.add(connection)
        return connection

    async def _connect(self, connection: _Connection) -> None:
        host, port = self._address
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_within_s):
                reached = await _reach(await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
                await loop.create_connection(
                    lambda: connection,
                    sock=reached,
                    ssl=self._ssl,
                    server_hostname=host if self._ssl else None,
                )
        except TimeoutError:
            why = f"no connection to {self._authority} within {self._connect_within_s:g} s"
        except (OSError, ValueError) as error:
            why = f"no connection to {self._authority}: {_words(error)}"
        except BaseException:
            self.lost(connection)
            raise
        else:
            return
        self.lost(connection)
        raise Unreachable(why)

    # What follows is for the connections.

    def give_back(self, connection: _Connection) -> None:
        """A connection with nothing to do goes to the next who waits, else to the idle ones."""
        if self._waiters and self._hand_over(connection):
            return
        loop = asyncio.get_running_loop()
        connection.idle_since_s = loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(self._idle_s, self._drop_idle)

    def lost(self, connection: _Connection) -> None:
        """A connection that is no more makes room for another."""
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._waiters and not self._is_closed:
            fresh = self._new()
            if not self._hand_over(fresh):
                self._connections.discard(fresh)

    def _hand_over(self, connection: _Connection) -> bool:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        return False

    def _drop_idle(self) -> None:
        self._sweep = None
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0].idle_since_s + self._idle_s <= loop.time():
            self._idle.popleft().close()
        if self._idle:
            self._sweep = loop.call_at(self._idle[0].idle_since_s + self._idle_s, self._drop_idle)


class _Silence(Unreachable):
    """The connection closed without a byte of an answer."""


class _Connection(asyncio.Protocol):
    """One connection: one exchange at a time, between two of them in its pool. The parser calls the `on_` methods."""

    def __init__(self, pool: Pool) -> None:
        self.idle_since_s = 0.0  # the event loop's clock
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._response: Response | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._is_interim = self._keeps_alive = False

    @property
    def is_new(self) -> bool:
        return self._transport is None

    @property
    def is_connected(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, top: bytes, body: bytes) -> Response:
        """Sends a request and waits for the head of its answer. Raises `Unreachable`."""
        if not self.is_connected:
            raise _Silence("the connection closed before the request was sent")
        assert self._transport is not None
        response = self._response = Response(self)
        self._head_bytes = 0
        if len(body) < JOIN_BELOW_BYTES:
            self._transport.write(top + body)
        else:
            self._transport.writelines((top, body))
        try:
            while response.status == 0 and response.error is None:
                await response.arrival()
        except BaseException:
            response.close()
            raise
        if response.status == 0 and response.error is not None:
            raise response.error
        return response

    def resume(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def fail(self, why: str, is_silence: bool = False) -> None:
        """Cuts the connection; the exchange that runs on it ends in an error."""
        response, self._response = self._response, None
        if response is not None:
            if response.status:
                response.fail(CutOff(why))
            else:
                response.fail((_Silence if is_silence else Unreachable)(why, was_sent=True))
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:  # nobody asked
            self.fail("")
            return
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.fail(_words(error.__context__ or error))
            return
        if response.is_whole:
            self._finish()
        elif response.status == 0:
            if self._head_bytes > MAX_HEAD_BYTES:
                self.fail(f"its head is larger than {MAX_HEAD_BYTES // 1024} KiB")
            return
        elif response.is_full and self._transport is not None:
            self._transport.pause_reading()
        response.wake()

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._ended(error)
        del self._parser  # it refers to this object
        self._pool.lost(self)

    def _ended(self, error: Exception | None) -> None:
        response = self._response
        if response is None:
            return
        if response.ends_with_connection and error is None:
            try:
                response.end()
            except CutOff as damage:
                self.fail(str(damage))
                return
            self._response = None
            response.wake()
        else:
            what = "in mid-answer" if response.status else "before it answered"
            why = f"the connection closed {what}" + (f": {_words(error)}" if error else "")
            self.fail(why, is_silence=self._head_bytes == 0)

    def _finish(self) -> None:
        """The answer is whole: the connection may serve the next one."""
        self._response = None
        assert self._transport is not None
        is_sent = self._transport.get_write_buffer_size() == 0
        if self._keeps_alive and is_sent:
            self._pool.give_back(self)
        else:
            self._transport.abort()

    def on_message_begin(self) -> None:
        if self._response is not None and self._response.is_whole:
            raise ValueError("bytes behind its answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        headers, self._headers = self._headers, []
        if self._head_bytes > MAX_HEAD_BYTES < sum(len(name) + len(value) + 4 for name, value in headers):
            raise ValueError(f"its head is larger than {MAX_HEAD_BYTES // 1024} KiB")
        status = self._parser.get_status_code()
        if status < 200:
            if status < 100 or status == 101:
                raise ValueError(f"it answered with status {status}, which was not asked for")
            self._is_interim = True
            return
        assert self._response is not None
        self._keeps_alive = self._parser.should_keep_alive()
        self._response.begin(
            status, {name.lower().decode(): value.decode("latin-1") for name, value in headers}
        )

    def on_body(self, data: bytes) -> None:
        assert self._response is not None
        self._response.add(data)

    def on_message_complete(self) -> None:
        self._headers.clear()  # trailers
        if self._is_interim:
            self._is_interim = False
        else:
            assert self._response is not None
            self._response.end()


class _Decoder:
    """Undoes a compression that we did not ask for, up to a size."""

    def __init__(self, encoding: str) -> None:
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise CutOff(f"it answered in content encoding '{encoding}', although asked for none")
        self._is_gzip = encoding != "deflate"
        self._inflate: zlib._Decompress | None = None
        self._room = MAX_DECODED_BYTES

    def decode(self, data: bytes) -> bytes:
        if self._inflate is None:
            is_raw = not self._is_gzip and data[0] & 0x0F != 8  # some servers leave zlib's own head out
            bits = 16 + zlib.MAX_WBITS if self._is_gzip else zlib.MAX_WBITS
            self._inflate = zlib.decompressobj(-zlib.MAX_WBITS if is_raw else bits)
        try:
            plain = self._inflate.decompress(data, self._room + 1)
        except zlib.error as error:
            raise CutOff(f"its compressed body is damaged: {error}") from error
        self._room -= len(plain)
        if self._room < 0:
            raise CutOff(f"its compressed body grew past {MAX_DECODED_BYTES // 1024**2} MiB")
        return plain

    def end(self) -> None:
        if self._inflate is not None and (not self._inflate.eof or self._inflate.unused_data):
            raise CutOff("its compressed body ends too early or too late")


async def _reach(places: Sequence[_Place]) -> socket.socket:
    """Connects to the first of a host's addresses that answers, each with a head start on the next (RFC 8305)."""

    async def attempt(place: _Place) -> socket.socket:
        family, kind, protocol, _, address = place
        reached = socket.socket(family, kind, protocol)
        try:
            reached.setblocking(False)
            await asyncio.get_running_loop().sock_connect(reached, address)
        except BaseException:
            reached.close()
            raise
        return reached

    attempts = [functools.partial(attempt, place) for place in places]
    winner, _, errors = await staggered_race(attempts, HEAD_START_S)
    if winner is None:
        raise next(error for error in errors if error is not None)
    return cast(socket.socket, winner)


@functools.cache
def _default_tls() -> ssl.SSLContext:
    """One for all: loading the machine's certificates takes tens of milliseconds."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError | socket.gaierror):
        return os.strerror(error.errno)  # event loops put the address there, which we name ourselves
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
