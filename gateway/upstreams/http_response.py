"""An answer of an upstream over HTTP while it arrives: its head, then its body, decompressed where it must be.

In: what a connection's parser finds. Out: pieces of the body to one reader; who reads too slowly holds the connection
up. Knows no sockets.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from gateway.upstreams.base import CutOff, Unreachable

MAX_UNREAD_BYTES = 256 * 1024  # beyond, the connection is not read until someone takes what is there
MAX_DECODED_BYTES = 64 * 1024 * 1024  # of a compressed body, which nobody asked for
MAX_EXPANSION = 50  # times what came, beyond the first MiB: to undo a bomb would stop all other calls
MAX_BODY_BYTES = 128 * 1024 * 1024  # of any answer, streamed or not


class Source(Protocol):
    """The connection that an answer comes from."""

    def resume(self) -> None:
        """Reads on."""

    def fail(self, why: str) -> None:
        """Cuts it."""


class Response(AsyncIterator[bytes]):
    """An answer whose head is known. It owns its connection until the body is whole, or it is closed.

    `headers`: names in lower case; of a repeated one the last value.
    """

    def __init__(self, connection: Source) -> None:
        self.status = 0  # until the head is here
        self.headers: Mapping[str, str] = {}
        self.is_whole = False
        self.error: Unreachable | CutOff | None = None
        self._connection = connection
        self._parts: list[bytes] = []
        self._unread_bytes = 0
        self._room = MAX_BODY_BYTES
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
            self._room -= len(data)
            if self._room < 0:
                raise CutOff(f"its answer grew past {MAX_BODY_BYTES // 1024**2} MiB")

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


class _Decoder:
    """Undoes a compression that we did not ask for, up to a size."""

    def __init__(self, encoding: str) -> None:
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise CutOff(f"it answered in content encoding '{encoding}', although asked for none")
        self._is_gzip = encoding != "deflate"
        self._inflate: zlib._Decompress | None = None
        self._bytes, self._may_be = 0, 2**20

    def decode(self, data: bytes) -> bytes:
        if self._inflate is None:
            is_raw = not self._is_gzip and data[0] & 0x0F != 8  # some servers leave zlib's own head out
            bits = 16 + zlib.MAX_WBITS if self._is_gzip else zlib.MAX_WBITS
            self._inflate = zlib.decompressobj(-zlib.MAX_WBITS if is_raw else bits)
        self._may_be = min(MAX_DECODED_BYTES, self._may_be + MAX_EXPANSION * len(data))
        try:
            plain = self._inflate.decompress(data, self._may_be - self._bytes + 1)
        except zlib.error as error:
            raise CutOff(f"its compressed body is damaged: {error}") from error
        self._bytes += len(plain)
        if self._bytes > MAX_DECODED_BYTES:
            raise CutOff(f"its compressed body grew past {MAX_DECODED_BYTES // 1024**2} MiB")
        if self._bytes > self._may_be:
            raise CutOff(f"its compressed body grew to more than {MAX_EXPANSION} times what came")
        return plain

    def end(self) -> None:
        if self._inflate is not None and (not self._inflate.eof or self._inflate.unused_data):
            raise CutOff("its compressed body ends too early or too late")
