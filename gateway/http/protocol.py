"""The data plane's HTTP inside uvicorn: POSTs to given paths are served here, every other request goes to the ASGI app.

In: a connection's bytes. Out: for each such POST, once its body is whole, a task of `handler(request, client)`, in its
turn. What is no HTTP, too large or too slow is refused; none is upgraded. Knows no keys and no policy.
"""

from __future__ import annotations

import asyncio
import logging
import time
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

import httptools

from gateway.http.client import Client
from gateway.http.request import Limits, Request
from gateway.http.turns import MAX_QUEUED, ErrorBody, Handler, Plane, Turns
from gateway.wire.errors import (
    BadRequest,
    BodyEncoded,
    BodyTooLarge,
    GatewayError,
    HeadersTooLarge,
    RequestTimeout,
)

log = logging.getLogger(__name__)
MAX_HEADERS = 256
LINGER_S = 5.0  # how long a refused client may go on sending, so that it gets to read why
OFFERS = (b"connection", b"upgrade", b"http2-settings")
_BETWEEN, _HEAD, _BODY = range(3)  # of two requests, in a request's head, in its body


def data_plane(
    paths: Mapping[str, ErrorBody],
    handler: Handler,
    limits: Limits | None = None,
    on_aborted_upload: Callable[[], None] = lambda: None,
    admit: Callable[[Mapping[str, str]], object] = lambda headers: None,
) -> type[Turns]:
    """The class to give uvicorn as `http`. Paths are compared as they were sent, without `root_path`; with each comes
    how it says errors. A client that leaves before its request is whole has made no call: that is only told. `admit`
    raises `GatewayError` for headers of strangers, of whom no large body is read.
    """
    known = {path.encode(): path for path in paths}

    class DataPlane(_Reading):
        _plane = Plane(known, paths, handler, limits or Limits(), on_aborted_upload, admit)

    return DataPlane


class _Reading(Turns):
    """One connection, whose bytes become requests. The parser calls the `on_` methods, which may refuse by raising a
    `GatewayError`."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._limits = self._plane.limits
        self._phase = _BETWEEN
        self._receiving: Client | None = None  # whose body comes in
        self._parts: list[bytes] = []
        self._body_bytes = self._room_bytes = 0
        self._body_began = 0.0
        self._idle_bytes = 0  # read since the last that were of a body
        self._is_deaf = False  # nothing more is read from this client
        self._timer: asyncio.TimerHandle | None = None  # of a request on its way, and of lingering

    def hang_up(self) -> None:
        """To close on a client that still sends would take the answer from it."""
        if not self._is_deaf:
            self.transport.close()
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_S, self.transport.abort)

    @property
    def is_at_rest(self) -> bool:
        return self._phase == _BETWEEN and super().is_at_rest

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_timer()
        if self._receiving is not None and self._receiving.refusal is None:
            self._plane.on_aborted_upload()
        super().connection_lost(error)

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
        else:
            self._stop_timer()
            limits, now = self._limits, self.loop.time()
            slowest_s = limits.body_idle_s + self._body_bytes / limits.bytes_per_s
            left_s = min(limits.body_idle_s, self._body_began + slowest_s - now)
            self._timer = self.loop.call_later(max(0.0, left_s), self._too_slow)

    def _too_slow(self) -> None:
        self._timer = None
        if self.flow.read_paused:
            self._body_began = self.loop.time()
            self._await_rest()
        else:
            what = "headers" if self._phase == _HEAD else "body"
            self._refuse(RequestTimeout(f"the request's {what} did not come in time"))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, error: GatewayError) -> None:
        """Answered in its turn; from now on nothing is read."""
        self._is_deaf = True
        self._stop_timer()
        client = self._receiving
        if client is not None:
            client.refusal, client.keep_alive = error, False
            if self._turn is client:
                client.fail(error)
        elif self._phase == _BODY:  # of a request that the app already serves
            self.transport.close()
        else:
            client = Client(self, None)
            client.refusal, client.path = error, self._path_of_head()
            self._queue(client)

    def _path_of_head(self) -> str | None:
        """Of a head that may not have come whole."""
        try:
            return self._split_url()[0] if self._phase == _HEAD else None
        except httptools.HttpParserInvalidURLError:
            return None

    def _pass_over_upgrade(self, rest: bytes) -> None:
        """An offer to switch protocols, as Java's HTTP client makes with every call, need not be taken up."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":
            self._refuse(BadRequest("this is no proxy"))
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
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise BodyEncoded("the body is compressed; send it as it is, without Content-Encoding")
        length, limits = int(headers.get("content-length", 0)), self._limits
        if length > limits.body_bytes:
            raise _too_large_body(limits.body_bytes)
        if length > limits.strangers_bytes:
            self._plane.admit(headers)
        is_admitted = length > limits.strangers_bytes
        self._begin_body(limits.body_bytes if is_admitted else limits.strangers_bytes)
        is_http_11 = self.parser.get_http_version() == "1.1"
        keep_alive = is_http_11 and not self.is_leaving and self.parser.should_keep_alive()
        request = Request(path, query, headers, b"", time.monotonic())
        client = Client(self, request, is_http_11=is_http_11, keep_alive=keep_alive)
        self._phase, self._receiving = _BODY, client
        self._queue(client)

    def _hand_over(self) -> None:
        """A request for the app: uvicorn's own callbacks, one after the other."""
        url, headers = self.url, self.headers
        limit = self._limits.app_bytes
        if any(name.lower() == b"content-length" and int(value) > limit for name, value in headers):
            raise _too_large_body(limit)
        self._begin_body(limit)
        self._phase = _BODY
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        super().on_headers_complete()
        if self.is_leaving and self.cycle is not None:
            self.cycle.keep_alive = False
        if len(self.pipeline) < MAX_QUEUED:
            self.flow.resume_reading()

    def on_body(self, data: bytes) -> None:
        self._idle_bytes = 0
        self._body_bytes += len(data)
        if self._body_bytes > self._room_bytes:
            self._ask_for_room()
        if self._receiving is None:
            super().on_body(data)
        else:
            self._parts.append(data)

    def _begin_body(self, room_bytes: int) -> None:
        self._body_bytes, self._room_bytes, self._body_began = 0, room_bytes, self.loop.time()

    def _ask_for_room(self) -> None:
        """More came than was said, or of a chunked body than a stranger's may have."""
        client, limits = self._receiving, self._limits
        if client is None:
            raise _too_large_body(limits.app_bytes)
        if self._body_bytes > limits.body_bytes:
            raise _too_large_body(limits.body_bytes)
        assert client.request is not None
        self._plane.admit(client.request.headers)
        self._room_bytes = limits.body_bytes

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
            if self._turn is client:
                self._run(client)
        elif not self.parser.should_upgrade():
            super().on_message_complete()


def _too_large_head(limits: Limits) -> GatewayError:
    return HeadersTooLarge(
        f"the headers are more than {MAX_HEADERS} or larger than {limits.head_bytes // 1024} KiB"
    )


def _too_large_body(limit_bytes: int) -> GatewayError:
    return BodyTooLarge(f"the body is larger than {limit_bytes // 1024**2} MiB")


def _refusal_of(error: httptools.HttpParserError) -> GatewayError:
    """What a callback raised, or what the parser itself did not like."""
    reason = error.__context__
    if isinstance(reason, GatewayError):
        return reason
    if reason is not None and not isinstance(reason, httptools.HttpParserError):
        log.error("a request could not be read", exc_info=reason)
    return BadRequest(f"this is not valid HTTP/1.1: {reason or error}", code="invalid_http")
