"""The requests of one connection take turns: one is served after the other, in the order they came.

In: a `Client` for each request of the data plane, and uvicorn's cycles for those of the app. Out: a task of the handler
for each such request, which is cancelled at once when the client leaves. Between two requests an idle connection is
kept for a while. A `Client` stands in uvicorn's pipeline as one of its cycles: this is written against the insides of
uvicorn 0.54.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.http.client import Client
from gateway.http.request import Limits, Request
from gateway.wire.errors import GatewayError, TooManyConnections

LEAVES_AFTER_S = 0.5  # how long idle connections are kept when the server stops: a request may be on its way
MAX_QUEUED = 8  # pipelined requests that wait for their turn; with more, the connection is not read
Handler = Callable[[Request, Client], Coroutine[Any, Any, None]]
ErrorBody = Callable[[GatewayError], bytes]


@dataclass(frozen=True, slots=True)
class Plane:
    """What all connections share. `error_bodies`: how an error is said on each path."""

    paths: Mapping[bytes, str]
    error_bodies: Mapping[str, ErrorBody]
    handler: Handler
    limits: Limits
    on_aborted_upload: Callable[[], None]
    admit: Callable[[Mapping[str, str]], object]  # raises `GatewayError` for headers without a good key


class Turns(HttpToolsProtocol):
    """The requests of one connection, once they are read."""

    _plane: ClassVar[Plane]
    _common: ClassVar[tuple[object, bytes]] = (None, b"")
    is_leaving: ClassVar[bool] = False  # every answer is its connection's last, and says so

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._turn: RequestResponseCycle | None = None  # who is being served, or was last
        self._idle_since = 0.0
        self._unread: asyncio.TimerHandle | None = None  # while an answer waits for its client
        self._unread_bytes = 0  # when that was armed

    def common_lines(self) -> bytes:
        """The header lines that every answer has: uvicorn's list, which it renews once a second for the date."""
        listed, lines = self._common
        if listed is not self.server_state.default_headers:
            listed = self.server_state.default_headers
            lines = b"".join([b"%b: %b\r\n" % header for header in listed])
            type(self)._common = listed, lines
        return lines

    def error_body(self, error: GatewayError, path: str | None) -> bytes:
        """As the API of this path says errors; OpenAI's where there is no such path."""
        say = None if path is None else self._plane.error_bodies.get(path)
        return say(error) if say else orjson.dumps(error.value())

    def hang_up(self) -> None:
        """After an answer that was the last."""
        self.transport.close()

    @property
    def is_at_rest(self) -> bool:
        """Nobody waits for an answer."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._plane.limits.connections:
            Client(self, None).fail(TooManyConnections("this gateway has no room for another connection"))
        else:
            self._rest()

    def pause_writing(self) -> None:
        """More is written than the client takes."""
        super().pause_writing()
        self._watch_unread()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_unread()

    def _watch_unread(self) -> None:
        self._forget_unread()
        self._unread_bytes = self._waiting_bytes()
        self._unread = self.loop.call_later(self._plane.limits.unread_s, self._check_unread)

    def _forget_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()

    def _waiting_bytes(self) -> int:
        """Written and not yet with the client: ours, and the kernel's, which can be megabytes."""
        kept = bytearray(4)
        with suppress(OSError):
            fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, kept)
        return self.transport.get_write_buffer_size() + int.from_bytes(kept, sys.byteorder)

    def _check_unread(self) -> None:
        """Who takes next to nothing is cut off, which ends its call."""
        limits = self._plane.limits
        taken = self._unread_bytes - self._waiting_bytes()
        if taken < limits.unread_s * limits.bytes_per_s:
            self.transport.abort()
        else:
            self._watch_unread()

    def shutdown(self) -> None:
        """The server stops listening, and asks this of every connection."""
        type(self).is_leaving = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        else:
            self.loop.call_later(LEAVES_AFTER_S, self._close_at_rest)

    def _close_at_rest(self) -> None:
        if self.is_at_rest:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._leave()
        self._forget_unread()
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
            cycle.fail(cycle.refusal)
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
            self._watch_unread()
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
        if not self.is_at_rest:
            self._rest()
        elif self.loop.time() < due:
            self.timeout_keep_alive_task = self.loop.call_at(due, self.timeout_keep_alive_handler)
        elif self.transport.get_write_buffer_size():  # it does not even take its answer
            self.transport.abort()
        else:
            self.transport.close()
