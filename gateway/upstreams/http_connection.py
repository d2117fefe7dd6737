"""One connection to an upstream, on asyncio's protocols and httptools: a request goes out, its answer comes in.

In: a request as bytes. Out: a `Response` once its head is here. Between two exchanges it belongs to its pool.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import Protocol, cast

import httptools

from gateway.upstreams.base import CutOff, Mark, Unreachable
from gateway.upstreams.http_response import Response

MAX_HEAD_BYTES = 64 * 1024
JOIN_BELOW_BYTES = 64 * 1024


class Owner(Protocol):
    """The pool."""

    def give_back(self, connection: Connection) -> None:
        """It has nothing to do."""

    def lost(self, connection: Connection) -> None:
        """It is no more."""


class Silence(Unreachable):
    """The connection closed without a byte of an answer. `was_sent`: the request may have reached the target."""

    def __init__(self, why: str, was_sent: bool = False) -> None:
        super().__init__(why)
        self.was_sent = was_sent


class Connection(asyncio.Protocol):
    """One connection: one exchange at a time, between two of them in its pool. The parser calls the `on_` methods."""

    def __init__(self, pool: Owner) -> None:
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

    async def ask(self, top: bytes, body: bytes, mark: Mark | None = None) -> Response:
        """Sends a request and waits for the head of its answer. Raises `Unreachable`."""
        if not self.is_connected:
            raise Silence("the connection closed before the request was sent")
        assert self._transport is not None
        response = self._response = Response(self)
        self._head_bytes = 0
        if mark is not None:
            mark.is_sent = True
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
                response.fail(Silence(why, was_sent=True) if is_silence else Unreachable(why))
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
            self.fail(words(error.__context__ or error))
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
            why = f"the connection closed {what}" + (f": {words(error)}" if error else "")
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


def words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError | socket.gaierror):
        return os.strerror(error.errno)  # event loops put the address there, which we name ourselves
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
