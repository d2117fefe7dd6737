"""A small HTTP/1.1 client: one `Pool` of connections per origin, opened as they are needed and used again.

In: a path, header lines and a body, as bytes. Out: a `Response` once its head is here; its body as it arrives. Knows
no JSON, redirects or cookies, and of time limits only the one for connecting: how long an answer may take is the
caller's business, who cancels. Whatever is cancelled or closed half-way costs its connection, nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from asyncio.staggered import staggered_race
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop

from gateway.upstreams.base import Mark, Unreachable
from gateway.upstreams.http_connection import Connection, Silence, words
from gateway.upstreams.http_response import Response

MAX_CONNECTIONS = 1_000
IDLE_S = 30.0
CONNECT_WITHIN_S = 10.0
HEAD_START_S = 0.25

_Place = tuple[int, int, int, str, Any]  # as `getaddrinfo` gives it


def header_lines(headers: Mapping[str, str]) -> bytes:
    """Headers as they go over the wire. Raises `ValueError` for one that would break out of its line."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\r") != len(headers) or lines.count("\n") != len(headers):
        raise ValueError(f"a line break in one of the headers {', '.join(headers)}")
    return lines.encode("latin-1", "replace")


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
        self._connections: set[Connection] = set()  # connecting, at work and idle
        self._idle: deque[Connection] = deque()
        self._waiters: deque[asyncio.Future[Connection]] = deque()
        self._sweep: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def post(
        self, path: str, head: bytes, body: bytes, *, retry_stale: bool = True, mark: Mark | None = None
    ) -> Response:
        """Sends `body`; `head` are header lines as `header_lines` makes them. Raises `Unreachable`.

        Where a kept connection turns out to be closed, with no byte of an answer, the request is sent once more on
        a new one, unless told not to `retry_stale`.
        """
        top = b"POST %b%b%bContent-Length: %d\r\n\r\n" % (path.encode(), self._fixed, head, len(body))
        return await self._request(top, body, retry_stale, mark)

    async def get(self, path: str, head: bytes = b"", *, method: str = "GET") -> Response:
        """Asks without a body. Raises `Unreachable`."""
        top = b"%b %b%b%b\r\n" % (method.encode(), path.encode(), self._fixed, head)
        return await self._request(top, b"", True, None)

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

    async def _request(self, top: bytes, body: bytes, retry_stale: bool, mark: Mark | None) -> Response:
        connection = self._idle.pop() if self._idle else await self._free()
        is_kept = not connection.is_new
        if not is_kept:
            await self._connect(connection)
        try:
            return await connection.ask(top, body, mark)
        except Silence as silence:
            if not is_kept or (silence.was_sent and not retry_stale):
                raise
        connection = self._new()
        await self._connect(connection)
        return await connection.ask(top, body, mark)

    async def _free(self) -> Connection:
        """A place for a new connection, or a kept one that others gave back in the meantime."""
        if len(self._connections) < self._max_connections:
            return self._new()
        waiter: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
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

    def _new(self) -> Connection:
        connection = Connection(self)
        self._connections.add(connection)
        return connection

    async def _connect(self, connection: Connection) -> None:
        host, port = self._address
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_within_s):
                reached = await _reach(await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
                try:
                    await loop.create_connection(
                        lambda: connection,
                        sock=reached,
                        ssl=self._ssl,
                        server_hostname=host if self._ssl else None,
                    )
                except BaseException:
                    if isinstance(loop, uvloop.Loop):  # it closes the descriptor, and so would the socket:
                        reached.detach()  # by then it may be that of another connection
                    raise
        except TimeoutError:
            why = f"no connection to {self._authority} within {self._connect_within_s:g} s"
        except (OSError, ValueError) as error:
            why = f"no connection to {self._authority}: {words(error)}"
        except BaseException:
            self.lost(connection)
            raise
        else:
            return
        self.lost(connection)
        raise Unreachable(why)

    # What follows is for the connections.

    def give_back(self, connection: Connection) -> None:
        """A connection with nothing to do goes to the next who waits, else to the idle ones."""
        if self._waiters and self._hand_over(connection):
            return
        loop = asyncio.get_running_loop()
        connection.idle_since_s = loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(self._idle_s, self._drop_idle)

    def lost(self, connection: Connection) -> None:
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

    def _hand_over(self, connection: Connection) -> bool:
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


async def _reach(places: Sequence[_Place]) -> socket.socket:
    """Connects to the first of a host's addresses that answers, each with a head start on the next (RFC 8305)."""

    connected: list[socket.socket] = []

    async def attempt(place: _Place) -> socket.socket:
        family, kind, protocol, _, address = place
        reached = socket.socket(family, kind, protocol)
        try:
            reached.setblocking(False)
            await asyncio.get_running_loop().sock_connect(reached, address)
        except BaseException:
            reached.close()
            raise
        connected.append(reached)
        return reached

    attempts = [functools.partial(attempt, place) for place in places]
    winner = None
    try:
        winner, _, errors = await staggered_race(attempts, HEAD_START_S)
    finally:  # cancelled when one had just connected, or two did at once
        for reached in connected:
            if reached is not winner:
                reached.close()
    if winner is None:
        raise next(error for error in errors if error is not None)
    return cast(socket.socket, winner)


@functools.cache
def _default_tls() -> ssl.SSLContext:
    """One for all: loading the machine's certificates takes tens of milliseconds."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
