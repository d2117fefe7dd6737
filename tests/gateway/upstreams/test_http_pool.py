"""The pooled client against real servers on loopback: framing, reuse, trouble, and what cancellation leaves behind."""

from __future__ import annotations

import asyncio
import gzip
import os
import shutil
import socket
import ssl
import subprocess
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.upstreams import http_pool, http_response
from gateway.upstreams.base import CutOff, Unreachable, UpstreamCall
from gateway.upstreams.http_pool import Pool, header_lines
from gateway.upstreams.http_response import Response
from gateway.upstreams.openai_http import HttpUpstream
from tests.raw_upstream import deaf_port

OK = b"HTTP/1.1 200 OK\r\n"


@dataclass
class Visit:
    """One connection to the server."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def request(self) -> tuple[str, dict[str, str], bytes]:
        """First line, headers and body. Raises `IncompleteReadError` where the client has left."""
        raw = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = raw.rstrip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return first, headers, await self.reader.readexactly(int(headers.get("content-length", 0)))

    async def send(self, raw: bytes) -> None:
        self.writer.write(raw)
        await self.writer.drain()


Behaviour = Callable[[Visit], Awaitable[None]]


@dataclass
class Upstream:
    origin: str = ""
    visits: int = 0
    open: int = 0
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)


@asynccontextmanager
async def upstream(behaviour: Behaviour, tls: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
    """Each connection is served by `behaviour` and closed when it returns."""
    server = Upstream()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.visits += 1
        server.open += 1
        try:
            await behaviour(Visit(server.visits, reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            server.open -= 1
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls, limit=2**20)
    server.origin = f"{'https' if tls else 'http'}://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()
        await eventually(lambda: server.open == 0)


def answers(*raw: bytes, pause_s: float = 0.0) -> Behaviour:
    """Every request of every connection gets these bytes, piece by piece."""

    async def behave(visit: Visit) -> None:
        while True:
            await visit.request()
            for piece in raw:
                await visit.send(piece)
                await asyncio.sleep(pause_s)

    return behave


def once(*raw: bytes) -> Behaviour:
    """Closes behind its first answer."""

    async def behave(visit: Visit) -> None:
        await visit.request()
        for piece in raw:
            await visit.send(piece)

    return behave


def whole(body: bytes, *lines: str) -> bytes:
    head = "".join(f"{line}\r\n" for line in (*lines, f"Content-Length: {len(body)}"))
    return OK + head.encode() + b"\r\n" + body


@asynccontextmanager
async def pool_to(origin: str, **options: Any) -> AsyncIterator[Pool]:
    pool = Pool(origin, **options)
    try:
        yield pool
    finally:
        await pool.close()
        await eventually(lambda: not pool._connections)


async def eventually(is_so: Callable[[], bool], within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < end, "did not happen"
        await asyncio.sleep(0.002)


def run(
    test: Callable[[], Awaitable[None]], loop: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await test()

    with asyncio.Runner(loop_factory=loop or uvloop.new_event_loop) as runner:
        runner.run(bounded())


async def ask(pool: Pool, body: bytes = b"{}", **options: Any) -> bytes:
    response = await pool.post("/x", b"", body, **options)
    try:
        return await response.read()
    finally:
        response.close()


# One exchange


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_what_is_sent_and_what_comes_back(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def test() -> None:
        got = []

        async def behave(visit: Visit) -> None:
            got.append(await visit.request())
            await visit.send(whole(b'{"a": 1}', "X-Request-Id: r1", "x-request-id: r2", "X-Odd: \xfc"))
            got.append(await visit.request())
            await visit.send(b"HTTP/1.1 429 Slow down\r\nContent-Length: 2\r\n\r\nno")

        async with upstream(behave) as server, pool_to(server.origin) as pool:
            response = await pool.post("/v1/x?y", header_lines({"X-A": "b", "Accept": "*/*"}), b"body")
            assert (response.status, response.headers["x-request-id"]) == (200, "r2")
            assert await response.read() == b'{"a": 1}'
            assert await response.read() == b""
            first, headers, body = got[0]
            assert (first, body) == ("POST /v1/x?y HTTP/1.1", b"body")
            assert headers == {
                "host": server.origin.removeprefix("http://"),
                "user-agent": "sparkgate",
                "accept-encoding": "identity",
                "x-a": "b",
                "accept": "*/*",
                "content-length": "4",
            }
            refused = await pool.get("/state")
            assert (refused.status, await refused.read()) == (429, b"no")
            assert got[1][0] == "GET /state HTTP/1.1"
            assert server.visits == 1

    run(test, loop)


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7;x=1\r\n, world\r\n0\r\nX-Late: 1\r\n\r\n"
EARLY = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
BODIES = [
    (whole(b"hello, world"), b"hello, world", True),
    (CHUNKED, b"hello, world", True),
    (EARLY + whole(b"hello, world"), b"hello, world", True),
    (OK + b"\r\nhello, world", b"hello, world", False),
    (b"HTTP/1.0 200 OK\r\n\r\nhello, world", b"hello, world", False),
    (whole(b"hello, world", "Connection: close"), b"hello, world", False),
    (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b"", True),
    (whole(b""), b"", True),
]


@pytest.mark.parametrize(("raw", "body", "is_kept"), BODIES)
def test_every_way_to_end_a_body(raw: bytes, body: bytes, is_kept: bool) -> None:
    async def test() -> None:
        behaviour = answers(raw) if is_kept else once(raw)
        async with upstream(behaviour) as server, pool_to(server.origin) as pool:
            for _ in range(3):
                assert await ask(pool) == body
                await eventually(lambda: len(pool._connections) == is_kept)
            assert server.visits == (1 if is_kept else 3)

    run(test)


@pytest.mark.parametrize("raw", [CHUNKED, EARLY + whole(b"hello, world")])
def test_bytes_may_come_one_at_a_time(raw: bytes) -> None:
    async def test() -> None:
        pieces = [bytes([byte]) for byte in raw]
        async with upstream(answers(*pieces)) as server, pool_to(server.origin) as pool:
            for _ in range(2):
                response = await pool.post("/x", b"", b"")
                assert b"".join([chunk async for chunk in response.chunks()]) == b"hello, world"

    run(test)


@settings(max_examples=60)
@given(data=st.data())
def test_any_cutting_of_the_same_bytes_gives_the_same_answers(data: st.DataObject) -> None:
    raw, body, is_kept = data.draw(st.sampled_from(BODIES))
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=12))

    async def test() -> None:
        pool = Pool("http://nowhere")
        connection = pool._new()
        connection.connection_made(Sink())
        asking = asyncio.create_task(connection.ask(b"", b""))
        await asyncio.sleep(0)
        for start, end in pairwise([0, *sorted(cuts), len(raw)]):
            if start < end:
                connection.data_received(raw[start:end])
        if not is_kept:
            connection.eof_received()
        response = await asking
        assert await response.read() == body
        assert (connection in pool._idle) == is_kept
        await pool.close()

    run(test)


class Sink(asyncio.Transport):
    """Takes everything, at once."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        pass


def test_a_stream_is_read_as_it_comes_and_late_readers_get_it_joined() -> None:
    async def test() -> None:
        async def behave(visit: Visit) -> None:
            await visit.request()
            await visit.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
            for number in range(3):
                await visit.send(b"2\r\n%d;\r\n" % number)
                await visit.request()  # the reader's word that it has it
            await visit.send(b"2\r\n3;\r\n2\r\n4;\r\n0\r\n\r\n")
            await visit.request()

        async with upstream(behave) as server, pool_to(server.origin) as pool:
            response = await pool.post("/x", b"", b"")
            chunks = response.chunks()
            (connection,) = pool._connections
            assert connection._transport is not None
            ours = connection._transport.get_extra_info("socket")
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            for number in range(3):
                assert await anext(chunks) == b"%d;" % number
                connection._transport.write(b"GET /next HTTP/1.1\r\n\r\n")
            await eventually(lambda: response.is_whole)
            assert [chunk async for chunk in chunks] == [b"3;4;"]

    run(test)


def test_a_slow_reader_holds_the_upstream_up_and_not_the_memory() -> None:
    piece, count = b"x" * 100_000, 300
    sent = 0

    async def test() -> None:
        async def behave(visit: Visit) -> None:
            nonlocal sent
            await visit.request()
            await visit.send(OK + b"Content-Length: %d\r\n\r\n" % (len(piece) * count))
            for _ in range(count):
                await visit.send(piece)
                sent += 1

        async with upstream(behave) as server, pool_to(server.origin) as pool:
            response = await pool.post("/x", b"", b"")
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.05)
            assert sent < count
            assert response._unread_bytes < 2 * http_response.MAX_UNREAD_BYTES + len(piece)
            assert await response.read() == piece * count

    run(test)


def test_a_large_body_is_sent_whole() -> None:
    body = bytes(range(256)) * 40_000

    async def test() -> None:
        async def behave(visit: Visit) -> None:
            _, _, got = await visit.request()
            await visit.send(whole(b"%d" % zlib.crc32(got)))

        async with upstream(behave) as server, pool_to(server.origin) as pool:
            assert await ask(pool, body) == b"%d" % zlib.crc32(body)

    run(test)


def test_a_header_cannot_break_out_of_its_line() -> None:
    assert header_lines({"A": "b", "C": "d"}) == b"A: b\r\nC: d\r\n"
    for bad in ({"A": "b\r\nC: d"}, {"A\n": "b"}, {"A": "b\r"}):
        with pytest.raises(ValueError, match="line break"):
            header_lines(bad)


# Compressed, though nobody asked


def _raw_deflate(data: bytes) -> bytes:
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return squeeze.compress(data) + squeeze.flush()


@pytest.mark.parametrize(
    ("encoding", "squeeze"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", _raw_deflate), ("GZIP", gzip.compress)],
)
def test_a_compressed_body_is_undone(encoding: str, squeeze: Callable[[bytes], bytes]) -> None:
    plain = b"data: hello\n\n" * 500

    async def test() -> None:
        raw = whole(squeeze(plain), f"Content-Encoding: {encoding}")
        async with (
            upstream(answers(*(raw[start : start + 50] for start in range(0, len(raw), 50)))) as server,
            pool_to(server.origin) as pool,
        ):
            assert await ask(pool) == plain
            assert await ask(pool) == plain
            assert server.visits == 1

    run(test)


@pytest.mark.parametrize(
    ("encoding", "body", "why"),
    [
        ("gzip", gzip.compress(b"x" * 4_000_000, mtime=0), "more than 50 times"),
        ("gzip", gzip.compress(b"hello" + Random(1).randbytes(2_100_000), mtime=0), "grew past 2 MiB"),
        ("gzip", gzip.compress(b"hello", mtime=0)[:-3], "ends too early"),
        ("gzip", gzip.compress(b"hello", mtime=0) + b"more", "too late"),
        ("gzip", b"not gzip at all", "damaged"),
        ("br", b"whatever", "content encoding 'br'"),
    ],
)
def test_a_bad_compressed_body_is_cut_off(
    encoding: str, body: bytes, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_response, "MAX_DECODED_BYTES", 2 * 2**20)

    async def test() -> None:
        async with (
            upstream(answers(whole(body, f"Content-Encoding: {encoding}"))) as server,
            pool_to(server.origin) as pool,
        ):
            with pytest.raises(CutOff, match=why):
                await ask(pool)
            await eventually(lambda: not pool._connections)

    run(test)


# Reuse


def test_the_latest_idle_connection_is_taken_first() -> None:
    async def test() -> None:
        async def behave(visit: Visit) -> None:
            while True:
                _, _, body = await visit.request()
                await asyncio.sleep(float(body))
                await visit.send(whole(b"%d" % visit.number))

        async with upstream(behave) as server, pool_to(server.origin) as pool:
            first = asyncio.create_task(ask(pool, b"0.05"))
            await eventually(lambda: server.visits == 1)
            assert await ask(pool, b"0") == b"2"
            assert await first == b"1"
            assert [await ask(pool, b"0") for _ in range(3)] == [b"1"] * 3

    run(test)


def test_idle_connections_are_dropped_after_a_while() -> None:
    async def test() -> None:
        async with upstream(answers(whole(b"a"))) as server, pool_to(server.origin, idle_s=0.1) as pool:
            await ask(pool)
            assert len(pool._idle) == 1
            await eventually(lambda: server.open == 0)
            assert not pool._connections
            assert await ask(pool) == b"a"
            assert server.visits == 2

    run(test)


def test_a_connection_that_the_server_closes_is_not_used_again() -> None:
    async def test() -> None:
        async with upstream(once(whole(b"a"))) as server, pool_to(server.origin) as pool:
            for _ in range(3):
                assert await ask(pool) == b"a"
                await eventually(lambda: not pool._connections)
            assert server.visits == 3

    run(test)


async def closes_on_second(visit: Visit) -> None:
    await visit.request()
    await visit.send(whole(b"%d" % visit.number))
    await visit.request()


def test_a_kept_connection_that_turns_out_closed_costs_one_more_try() -> None:
    async def test() -> None:
        async with upstream(closes_on_second) as server, pool_to(server.origin) as pool:
            assert [await ask(pool) for _ in range(4)] == [b"1", b"2", b"3", b"4"]
            with pytest.raises(Unreachable, match="closed before it answered"):
                await ask(pool, retry_stale=False)
            assert server.visits == 4

    run(test)


@dataclass
class Sent:
    is_sent: bool = False


def test_a_request_counts_as_sent_once_it_leaves_us() -> None:
    async def test() -> None:
        asked = []

        async def reads(visit: Visit) -> None:
            asked.append(await visit.request())
            await visit.reader.read()

        mark = Sent()
        with deaf_port() as port:
            async with pool_to(f"http://127.0.0.1:{port}") as pool:
                await _cancel(asyncio.create_task(ask(pool, mark=mark)), lambda: bool(pool._connections))
        assert not mark.is_sent
        async with upstream(reads) as server, pool_to(server.origin) as pool:
            await _cancel(asyncio.create_task(ask(pool, mark=mark)), lambda: bool(asked))
        assert mark.is_sent

    run(test)


def test_a_request_that_finds_its_kept_connection_closed_and_gets_no_other_is_not_sent() -> None:
    async def test() -> None:
        async with upstream(answers(whole(b"a"))) as server, pool_to(server.origin) as pool:
            await ask(pool)
            pool._idle[0].close()
            pool._address = ("127.0.0.1", 1)
            mark = Sent()
            with pytest.raises(Unreachable, match="refused"):
                await ask(pool, mark=mark)
            assert not mark.is_sent

    run(test)


def test_a_kept_connection_known_to_be_closed_is_no_try_at_all() -> None:
    async def test() -> None:
        async with upstream(answers(whole(b"a"))) as server, pool_to(server.origin) as pool:
            await ask(pool)
            pool._idle[0].close()
            assert await ask(pool, retry_stale=False) == b"a"
            assert server.visits == 2

    run(test)


def test_a_new_connection_that_closes_is_no_reason_to_try_again() -> None:
    async def test() -> None:
        async with upstream(once()) as server, pool_to(server.origin) as pool:
            with pytest.raises(Unreachable, match="closed before it answered"):
                await ask(pool)
            assert server.visits == 1

    run(test)


@pytest.mark.parametrize("behind", [b"HTTP/1.1 200 OK\r\n", b"garbage", whole(b"a second answer")])
def test_bytes_behind_an_answer_cost_its_connection(behind: bytes) -> None:
    async def test() -> None:
        async with upstream(answers(whole(b"a") + behind)) as server, pool_to(server.origin) as pool:
            for visits in (1, 2):
                assert await ask(pool) == b"a"
                await eventually(lambda: not pool._connections)
                assert server.visits == visits

    run(test)


def test_more_calls_than_connections_wait_their_turn() -> None:
    async def test() -> None:
        async with (
            upstream(answers(whole(b"a"), pause_s=0.002)) as server,
            pool_to(server.origin, max_connections=3) as pool,
        ):
            assert await asyncio.gather(*(ask(pool) for _ in range(60))) == [b"a"] * 60
            assert server.visits == 3

    run(test)


def test_a_place_that_becomes_free_goes_to_who_waits_even_if_the_connection_is_gone() -> None:
    async def test() -> None:
        async with (
            upstream(once(whole(b"a", "Connection: close"))) as server,
            pool_to(server.origin, max_connections=2) as pool,
        ):
            assert await asyncio.gather(*(ask(pool) for _ in range(20))) == [b"a"] * 20
            assert server.visits == 20

    run(test)


# Trouble


def test_nobody_listens() -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        async with pool_to(f"http://user:secret@127.0.0.1:{port}") as pool:
            with pytest.raises(Unreachable, match=rf"no connection to 127.0.0.1:{port}: .*refused") as failed:
                await ask(pool)
            assert "secret" not in str(failed.value)
            assert not pool._connections

    run(test)


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_a_name_that_does_not_exist(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def test() -> None:
        async with pool_to("http://no-such-host.invalid:1") as pool:
            with pytest.raises(Unreachable, match=r"no connection to no-such-host\.invalid:1"):
                await ask(pool)

    run(test, loop)


def test_connecting_takes_too_long() -> None:
    async def test() -> None:
        with deaf_port() as port:
            async with pool_to(f"http://127.0.0.1:{port}", connect_within_s=0.2) as pool:
                with pytest.raises(Unreachable, match=r"within 0\.2 s"):
                    await ask(pool)
                assert not pool._connections

    run(test)


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_an_address_that_does_not_answer_does_not_keep_from_the_next(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def test() -> None:
        with deaf_port() as silent, socket.create_server(("127.0.0.1", 0)) as good:
            ports = (silent, good.getsockname()[1])
            places = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port)) for port in ports]
            with await http_pool._reach(places) as reached:
                assert reached.getpeername() == good.getsockname()
            await asyncio.sleep(0)  # the other attempt ends

    run(test, loop)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "Expected HTTP"),
        (OK[:9], "closed before it answered"),
        (OK + b"X: 1\r\n", "closed before it answered"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "status 101"),
        (OK + b"X: " + b"y" * 70_000 + b"\r\n\r\n", "head is larger than 64 KiB"),
        (OK + b"X: " + b"y" * 700_000, "head is larger than 64 KiB"),
    ],
)
def test_no_proper_answer_at_all_is_unreachable(raw: bytes, why: str) -> None:
    async def test() -> None:
        async with upstream(once(raw)) as server, pool_to(server.origin) as pool:
            with pytest.raises(Unreachable, match=why):
                await ask(pool)
            await eventually(lambda: not pool._connections)
            assert server.visits == 1

    run(test)


@pytest.mark.parametrize(
    "raw",
    [
        whole(b"hello, world")[:-3],
        CHUNKED[:-3],
        CHUNKED[: CHUNKED.index(b"7;x")],
        CHUNKED.replace(b"7;x=1", b"zz"),
    ],
)
def test_an_answer_that_breaks_off_gives_what_came_then_cut_off(raw: bytes) -> None:
    async def test() -> None:
        async with upstream(once(raw)) as server, pool_to(server.origin) as pool:
            response = await pool.post("/x", b"", b"")
            got = await anext(response.chunks())
            assert b"hello, world".startswith(got)
            with pytest.raises(CutOff):
                await response.read()
            response.close()

    run(test)


def test_a_reset_in_mid_answer_is_cut_off_even_where_closing_would_end_it() -> None:
    async def test() -> None:
        async def behave(visit: Visit) -> None:
            await visit.request()
            await visit.send(OK + b"\r\nhello")
            await visit.reader.read(1)
            visit.writer.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
            )
            visit.writer.transport.abort()

        async with upstream(behave) as server, pool_to(server.origin) as pool:
            response = await pool.post("/x", b"", b"")
            assert await anext(response.chunks()) == b"hello"
            (connection,) = pool._connections
            assert connection._transport is not None
            connection._transport.write(b"x")
            with pytest.raises(CutOff):
                await response.read()

    run(test)


# Leaving half-way


async def never_answers(visit: Visit) -> None:
    await visit.request()
    await visit.reader.read()


async def stops_in_mid_answer(visit: Visit) -> None:
    await visit.request()
    await visit.send(OK + b"Content-Length: 100\r\n\r\nhello")
    await visit.reader.read()


async def reads_nothing(visit: Visit) -> None:
    await asyncio.sleep(0.05)


async def cancelled_while_waiting_for_an_answer(pool: Pool, server: Upstream) -> None:
    await _cancel(asyncio.create_task(ask(pool)), lambda: server.open == 1)


async def cancelled_in_mid_answer(pool: Pool, server: Upstream) -> None:
    got: list[bytes] = []

    async def reading() -> None:
        response = await pool.post("/x", b"", b"")
        try:
            async for chunk in response.chunks():
                got.append(chunk)
        finally:
            response.close()

    await _cancel(asyncio.create_task(reading()), lambda: bool(got))


async def closed_unread(pool: Pool, server: Upstream) -> None:
    response = await pool.post("/x", b"", b"")
    response.close()
    response.close()
    with pytest.raises(CutOff, match="closed before its end"):
        await response.read()


async def cancelled_while_connecting(pool: Pool, server: Upstream) -> None:
    asking = asyncio.create_task(ask(pool))
    await asyncio.sleep(0)
    await _cancel(asking, lambda: True)


async def _cancel(task: asyncio.Task[Any], when: Callable[[], bool]) -> None:
    await eventually(when)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("leave", "behaviour"),
    [
        (cancelled_while_connecting, never_answers),
        (cancelled_while_waiting_for_an_answer, never_answers),
        (cancelled_in_mid_answer, stops_in_mid_answer),
        (closed_unread, stops_in_mid_answer),
    ],
)
def test_leaving_half_way_cuts_the_connection_and_leaks_nothing(
    leave: Callable[[Pool, Upstream], Awaitable[None]], behaviour: Behaviour
) -> None:
    async def test() -> None:
        async with upstream(behaviour) as server, pool_to(server.origin, max_connections=2) as pool:
            files = len(os.listdir("/proc/self/fd"))
            for _ in range(100):
                await leave(pool, server)
                await eventually(lambda: not pool._connections and server.open == 0)
            await eventually(lambda: len(os.listdir("/proc/self/fd")) <= files)
            assert len(asyncio.all_tasks()) == 1
            assert not pool._idle
            assert not pool._waiters

    run(test)


def test_who_stops_waiting_for_a_connection_leaves_its_place_to_others() -> None:
    async def test() -> None:
        async with (
            upstream(answers(whole(b"a"))) as server,
            pool_to(server.origin, max_connections=1) as pool,
        ):
            await ask(pool)
            only = pool._idle.pop()
            waiting = [asyncio.create_task(ask(pool)) for _ in range(3)]
            await asyncio.sleep(0)
            waiting[0].cancel()
            await asyncio.sleep(0)
            assert len(pool._waiters) == 2
            pool.give_back(only)
            waiting[1].cancel()  # with the connection in its hand
            assert await waiting[2] == b"a"
            assert await ask(pool) == b"a"
            assert (server.visits, list(pool._idle)) == (1, [only])
            await asyncio.gather(*waiting, return_exceptions=True)

    run(test)


def test_who_is_cancelled_with_its_whole_answer_does_not_cut_who_has_its_connection_now() -> None:
    async def test() -> None:
        pool = Pool("http://nowhere", max_connections=1)
        connection = pool._new()
        connection.connection_made(Sink())
        first = asyncio.create_task(connection.ask(b"", b""))
        second = asyncio.create_task(pool.get("/"))
        await asyncio.sleep(0)
        connection.data_received(whole(b"first"))
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        connection.data_received(whole(b"second"))
        assert await (await second).read() == b"second"
        await pool.close()

    run(test)


def test_closing_the_pool_ends_what_runs_and_what_waits() -> None:
    async def test() -> None:
        async with upstream(never_answers) as server, pool_to(server.origin, max_connections=2) as pool:
            tasks = [asyncio.create_task(ask(pool)) for _ in range(4)]
            await eventually(lambda: server.open == 2)
            await pool.close()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(error) for error in ended if isinstance(error, Unreachable)]
            assert all(isinstance(error, Unreachable) for error in ended)

    run(test)


def test_an_answer_that_comes_before_the_request_is_sent_costs_its_connection() -> None:
    async def test() -> None:
        async def behave(visit: Visit) -> None:
            await visit.reader.readuntil(b"\r\n\r\n")
            await visit.send(b"HTTP/1.1 413 Too large\r\nContent-Length: 2\r\n\r\nno")
            await asyncio.sleep(0.05)

        async with upstream(behave) as server, pool_to(server.origin) as pool:
            response = await pool.post("/x", b"", b"x" * 20_000_000)
            assert (response.status, await response.read()) == (413, b"no")
            assert not pool._idle
            await eventually(lambda: not pool._connections)

    run(test)


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl program to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    key, subject = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"), ("-subj", "/CN=test")
    files = ("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"))
    for_whom = (*subject, "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2")
    command = ("openssl", "req", "-x509", "-newkey", *key, *files, *for_whom)
    subprocess.run(command, check=True, capture_output=True)
    return folder


def test_tls(certificate: Path) -> None:
    async def test() -> None:
        inside = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        inside.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        inside.set_alpn_protocols(["h2", "http/1.1"])
        spoken = []

        async def behave(visit: Visit) -> None:
            spoken.append(visit.writer.get_extra_info("ssl_object").selected_alpn_protocol())
            await answers(CHUNKED)(visit)

        trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
        trusting.set_alpn_protocols(["http/1.1"])
        async with upstream(behave, inside) as server:
            async with pool_to(server.origin, ssl_context=trusting) as pool:
                assert [await ask(pool) for _ in range(3)] == [b"hello, world"] * 3
                assert (server.visits, spoken) == (1, ["http/1.1"])
            async with pool_to(server.origin) as wary:
                with pytest.raises(Unreachable, match=r"(?i)certificate"):
                    await ask(wary)
                assert not wary._connections

    run(test)


# The upstream on top of it


def test_an_upstream_speaks_for_its_target() -> None:
    async def test() -> None:
        got = []

        async def behave(visit: Visit) -> None:
            while True:
                got.append(await visit.request())
                await visit.send(whole(b"{}", "X-Request-Id: r"))

        async with upstream(behave) as server:
            target = HttpUpstream(server.origin + "/proxy/v1/", "key")
            call = UpstreamCall("/v1/chat/completions", b'{"a":1}', False, {"X-Request-Id": "q"})
            reply = await target.send(call)
            assert isinstance(reply, Response)
            assert (reply.status, reply.headers["x-request-id"], await reply.read()) == (200, "r", b"{}")
            assert await target.get("/state") == (200, b"{}")
            await target.close()
        (first, headers, body), (second, _, _) = got
        assert (first, body) == ("POST /proxy/v1/chat/completions HTTP/1.1", b'{"a":1}')
        assert second == "GET /proxy/state HTTP/1.1"
        assert headers["authorization"] == "Bearer key"
        assert headers["content-type"] == "application/json"
        assert headers["x-request-id"] == "q"

    run(test)


def test_a_control_read_that_breaks_off_is_unreachable() -> None:
    async def test() -> None:
        async with upstream(once(whole(b"hello")[:-1])) as server:
            target = HttpUpstream(server.origin, None)
            with pytest.raises(Unreachable):
                await target.get("/state")
            await target.close()

    run(test)
