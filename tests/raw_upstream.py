"""An upstream on bare asyncio, for thousands of calls and for bytes that no HTTP server would send.

`RawUpstream.answer` plays each request: what it sends over its `Line` is all that goes over the wire, status line and
framing included. What the other side closes before the answer has ended is noted with its moment. Tells nothing of
targets or formats.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

END = b"0\r\n\r\n"  # of a chunked body
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


def head(status: int = 200, *lines: str, framing: str = "Transfer-Encoding: chunked") -> bytes:
    said = [f"HTTP/1.1 {status} Said", "Content-Type: text/event-stream", framing, *lines]
    return "\r\n".join([*(line for line in said if line), "", ""]).encode()


def framed(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def whole(value: dict[str, Any], status: int = 200, *lines: str) -> bytes:
    """A complete JSON answer."""
    raw = json.dumps(value).encode()
    return head(status, *lines, framing=f"Content-Length: {len(raw)}") + raw


class Line(asyncio.Protocol):
    """One connection: a request at a time."""

    def __init__(self, upstream: RawUpstream) -> None:
        self.sent_bytes = 0
        self.is_held_back = False  # the other side does not read
        self._upstream = upstream
        self._buffer = b""
        self._answering: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()

    @property
    def is_answering(self) -> bool:
        return self._answering is not None and not self._answering.done()

    async def send(self, raw: bytes) -> None:
        """Waits while the other side does not read."""
        self._transport.write(raw)
        self.sent_bytes += len(raw)
        await asyncio.sleep(0)  # the loop learns that the other side has gone
        if self.is_held_back:
            await self._writable.wait()

    def close(self) -> None:
        self._transport.close()

    def reset(self) -> None:
        """Closes with RST: the other side sees an error, not an end."""
        taken = self._transport.get_extra_info("socket")
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._upstream.lines.add(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        top, blank, rest = self._buffer.partition(b"\r\n\r\n")
        length = int(found[1]) if (found := _LENGTH.search(top)) else 0
        if blank and len(rest) >= length and not self.is_answering:
            self._buffer = rest[length:]
            self._upstream.calls += 1
            answer = self._upstream.answer(self, json.loads(rest[:length]))
            self._answering = asyncio.ensure_future(answer)

    def pause_writing(self) -> None:
        self.is_held_back = True
        self._writable.clear()

    def resume_writing(self) -> None:
        self.is_held_back = False
        self._writable.set()

    def connection_lost(self, _: Exception | None) -> None:
        self._upstream.lines.discard(self)
        if self._answering is not None and not self._answering.done():
            self._upstream.closed_at.append(time.monotonic())
            self._answering.cancel()


Answer = Callable[[Line, dict[str, Any]], Awaitable[None]]


@dataclass
class RawUpstream:
    answer: Answer
    url: str = ""
    calls: int = 0
    lines: set[Line] = field(default_factory=set)  # connections that are open
    closed_at: list[float] = field(default_factory=list)  # monotonic, of those closed in mid-answer

    @property
    def port(self) -> int:
        return int(self.url.split(":")[2].split("/")[0])


@asynccontextmanager
async def raw_upstream(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawUpstream]:
    upstream = RawUpstream(answer)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Line(upstream), "127.0.0.1", 0, ssl=tls)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield upstream
    finally:
        server.close()
        for line in tuple(upstream.lines):
            line.close()


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port of 127.0.0.1 where connecting neither succeeds nor fails."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as crowd:
        for _ in range(4):  # the kernel takes a few, then leaves the rest without an answer
            one = crowd.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        yield full.getsockname()[1]
