"""The data plane's HTTP over real sockets: what reaches the handler, what reaches the client, and who leaves when."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import uvicorn
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.http.client import Client
from gateway.http.protocol import data_plane
from gateway.http.request import Limits, Request
from gateway.http.turns import Handler
from gateway.surfaces.common import OPENAI_ERRORS
from gateway.surfaces.messages import ERRORS as ANTHROPIC_ERRORS

PATH = "/v1/chat/completions"
MESSAGES = "/v1/messages"
PATHS = {PATH: OPENAI_ERRORS.body, MESSAGES: ANTHROPIC_ERRORS.body}
DATE = (b"date", b"Sun, 22 Nov 2026 06:00:00 GMT")


@dataclass
class Served:
    """A listening protocol of ours, with an ASGI app behind it that says what it was asked."""

    port: int
    state: ServerState
    requests: list[Request]
    left: int = 0  # handlers that were cancelled
    aborted: int = 0  # uploads

    def abort(self) -> None:
        self.aborted += 1

    async def connect(self, receive_bytes: int | None = None) -> Wire:
        mine = socket.socket()
        if receive_bytes is not None:
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        mine.setblocking(False)
        await asyncio.get_running_loop().sock_connect(mine, ("127.0.0.1", self.port))
        return Wire(*await asyncio.open_connection(sock=mine, limit=65_536))

    async def ask(self, raw: bytes) -> Answer:
        """One request on a connection of its own."""
        wire = await self.connect()
        await wire.send(raw)
        answer = await wire.answer()
        await wire.close()
        return answer

    async def quiet(self) -> None:
        """Waits until no connection and no handler is left."""
        await eventually(lambda: not self.state.connections and not self.state.tasks)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    pieces: list[bytes]  # the chunks, where it was chunked

    @property
    def error(self) -> dict[str, Any]:
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return dict(error)


@dataclass
class Wire:
    """A client's end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, raw: bytes) -> None:
        self.writer.write(raw)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").rstrip().split("\r\n")
        assert first.startswith("HTTP/1.1 ")
        return int(first.split()[1]), {n.lower(): v for n, _, v in (line.partition(": ") for line in lines)}

    async def answer(self) -> Answer:
        status, headers = await self.head()
        pieces: list[bytes] = []
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await self.reader.readline(), 16):
                pieces.append(await self.reader.readexactly(size))
                assert await self.reader.readexactly(2) == b"\r\n"
            assert await self.reader.readexactly(2) == b"\r\n"
        elif "content-length" in headers:
            pieces.append(await self.reader.readexactly(int(headers["content-length"])))
        else:
            pieces.append(await self.reader.read())
        return Answer(status, headers, b"".join(pieces), pieces)

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


async def eventually(is_so: Callable[[], bool], within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < end, "did not happen"
        await asyncio.sleep(0.002)


async def echo(request: Request, client: Client) -> None:
    await client.respond(200, {"X-Path": request.path}, request.body)


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    raw = b"asgi %s %s %s" % (scope["method"].encode(), scope["path"].encode(), body)
    length = (b"content-length", str(len(raw)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": raw})


def protocol_class(
    handler: Handler,
    limits: Limits | None = None,
    keep_alive_s: float = 75,
    on_aborted_upload: Callable[[], None] = lambda: None,
    admit: Callable[[Mapping[str, str]], object] = lambda headers: None,
) -> tuple[type[HttpToolsProtocol], uvicorn.Config]:
    kind = data_plane(PATHS, handler, limits, on_aborted_upload, admit)
    config = uvicorn.Config(app, http=kind, lifespan="off", interface="asgi3", log_level="error")
    config.timeout_keep_alive = keep_alive_s  # type: ignore[assignment]
    config.load()
    return kind, config


@asynccontextmanager
async def serving(handler: Handler = echo, **given: Any) -> AsyncIterator[Served]:
    served = Served(0, ServerState(), [])
    served.state.default_headers = [DATE]

    async def watched(request: Request, client: Client) -> None:
        served.requests.append(request)
        try:
            await handler(request, client)
        except asyncio.CancelledError:
            served.left += 1
            raise

    kind, config = protocol_class(watched, on_aborted_upload=served.abort, **given)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: kind(config=config, server_state=served.state, app_state={}), "127.0.0.1", 0
    )
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.close()
        for connection in tuple(served.state.connections):
            connection.transport.abort()
        await served.quiet()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await test()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


def post(body: bytes = b"{}", *lines: str, path: str = PATH, version: str = "1.1") -> bytes:
    head = [f"POST {path} HTTP/{version}", "Host: test", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode()


# Requests


def test_a_request_reaches_the_handler_whole_and_its_answer_the_client() -> None:
    async def test() -> None:
        async with serving() as served:
            lines = ("X-Task-Id: one", "x-task-id: two", "X-Name: J\xfcrgen")
            answer = await served.ask(post(b'{"a": 1}', *lines, path=PATH + "?x=1&y"))
            (request,) = served.requests
            assert (request.path, request.query, request.body) == (PATH, b"x=1&y", b'{"a": 1}')
            assert request.headers["x-task-id"] == "two"
            assert request.headers["x-name"] == "J\xfcrgen"
            assert (answer.status, answer.body) == (200, b'{"a": 1}')
            assert answer.headers == {
                "date": DATE[1].decode(),
                "content-type": "application/json",
                "content-length": "8",
                "x-path": PATH,
            }

    run(test)


@pytest.mark.parametrize("path", [PATH, "/v1/chat%2Fcompletions", "http://test" + PATH, PATH + "?q"])
def test_ways_to_write_the_path(path: str) -> None:
    async def test() -> None:
        async with serving() as served:
            assert (await served.ask(post(b"{}", path=path))).headers["x-path"] == PATH

    run(test)


def test_a_chunked_body_is_put_together_and_its_trailers_are_not_headers() -> None:
    async def test() -> None:
        async with serving() as served:
            head = f"POST {PATH} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            answer = await served.ask(head + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Late: 1\r\n\r\n")
            assert answer.body == b"abcde"
            assert "x-late" not in served.requests[0].headers

    run(test)


def test_everything_else_goes_to_the_app_on_the_same_connection() -> None:
    async def test() -> None:
        async with serving() as served:
            wire = await served.connect()
            for raw, expected in (
                (post(b"1"), b"1"),
                (get("/health"), b"asgi GET /health "),
                (post(b"2"), b"2"),
                (get(PATH), f"asgi GET {PATH} ".encode()),
                (post(b"body", path="/v1/tasks/%41/outcome"), b"asgi POST /v1/tasks/A/outcome body"),
                (post(b"3"), b"3"),
            ):
                await wire.send(raw)
                assert (await wire.answer()).body == expected
            await wire.close()
            assert [request.body for request in served.requests] == [b"1", b"2", b"3"]

    run(test)


def test_pipelined_requests_are_answered_in_their_order_one_at_a_time() -> None:
    running = 0

    async def slower_first(request: Request, client: Client) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0.02 if request.body in (b"0", b"2") else 0)
        running -= 1
        await client.respond(200, {}, request.body)

    async def test() -> None:
        async with serving(slower_first) as served:
            wire = await served.connect()
            asked = [
                get(f"/{number}") if number % 3 == 1 else post(str(number).encode()) for number in range(40)
            ]
            await wire.send(b"".join(asked))
            bodies = [(await wire.answer()).body.decode() for _ in asked]
            assert bodies == [f"asgi GET /{n} " if n % 3 == 1 else str(n) for n in range(40)]
            await wire.close()

    run(test)


def test_bytes_may_come_one_at_a_time() -> None:
    async def test() -> None:
        async with serving() as served:
            wire = await served.connect()
            wire.writer.transport.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
            )
            for byte in post(b'{"a": 1}') + get("/x") + post(b"z"):
                wire.writer.write(bytes([byte]))
                await asyncio.sleep(0)
            assert [(await wire.answer()).body for _ in range(3)] == [b'{"a": 1}', b"asgi GET /x ", b"z"]
            await wire.close()

    run(test)


class Memory(asyncio.Transport):
    """The other end of a protocol that is fed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False


CHUNKED = f"POST {PATH} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwxyz\r\n0\r\n\r\n".encode()
TALK = post(b"first") + get("/app") + CHUNKED + post(b"", "Connection: Upgrade", "Upgrade: h2c") + post(b"x")


@settings(max_examples=60)
@given(cuts=st.lists(st.integers(1, len(TALK) - 1), max_size=40))
def test_any_cutting_of_the_same_bytes_gives_the_same_requests(cuts: list[int]) -> None:
    async def test() -> None:
        got: list[bytes] = []

        async def keep(request: Request, client: Client) -> None:
            got.append(request.body)
            await client.respond(200, {}, request.body)

        kind, config = protocol_class(keep)
        protocol = kind(config=config, server_state=ServerState(), app_state={})
        transport = Memory()
        protocol.connection_made(transport)
        edges = [0, *sorted(set(cuts)), len(TALK)]
        for start, end in pairwise(edges):
            protocol.data_received(TALK[start:end])
            await asyncio.sleep(0)
        await eventually(lambda: transport.written.count(b"HTTP/1.1 200 OK\r\n") == 5)
        protocol.connection_lost(None)
        assert got == [b"first", b"wxyz", b"", b"x"]
        assert b"\r\n\r\nasgi GET /app HTTP/1.1" in transport.written

    run(test)


def test_an_offer_of_http_2_is_passed_over_body_and_all() -> None:
    async def test() -> None:
        async with serving() as served:
            offer = (
                "Connection: Upgrade, HTTP2-Settings",
                "Upgrade: h2c",
                "HTTP2-Settings: AAEAAEAAAAIAAAAB",
            )
            wire = await served.connect()
            for raw in (post(b'{"a": 1}', *offer), post(b"next")):
                await wire.send(raw)
            assert [(await wire.answer()).body for _ in range(2)] == [b'{"a": 1}', b"next"]
            await wire.close()
            assert (await served.ask(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n")).status == 400

    run(test)


# Answers


def test_a_stream_is_chunked_with_its_head_before_the_first_event_and_not_earlier() -> None:
    async def test() -> None:
        async def events(request: Request, client: Client) -> None:
            assert not client.is_started
            await client.start(200, {"Content-Type": "text/event-stream"})
            assert client.is_started
            await client.write(b"data: 1\n\n")
            await client.write(b"")
            await client.write(b"data: 2\n\ndata: 3\n\n")
            await client.end(b"data: [DONE]\n\n")

        async with serving(events) as served:
            answer = await served.ask(post())
            assert answer.headers["transfer-encoding"] == "chunked"
            assert "content-length" not in answer.headers
            assert answer.pieces == [b"data: 1\n\n", b"data: 2\n\ndata: 3\n\n", b"data: [DONE]\n\n"]

    run(test)


def test_an_http_1_0_client_gets_no_chunks_and_the_end_by_closing() -> None:
    async def test() -> None:
        async def events(request: Request, client: Client) -> None:
            await client.start(200, {})
            await client.write(b"one ")
            await client.end(b"two")

        async with serving(events) as served:
            answer = await served.ask(post(b"{}", "Connection: keep-alive", version="1.0"))
            assert answer.headers.get("transfer-encoding") is None
            assert (answer.headers["connection"], answer.body) == ("close", b"one two")

    run(test)


def test_connection_close_is_kept_to() -> None:
    async def test() -> None:
        async with serving() as served:
            wire = await served.connect()
            await wire.send(post(b"a", "Connection: close"))
            answer = await wire.answer()
            assert (answer.body, answer.headers["connection"]) == (b"a", "close")
            assert await wire.reader.read() == b""
            await wire.close()

    run(test)


async def raises(request: Request, client: Client) -> None:
    raise RuntimeError("inside")


async def returns(request: Request, client: Client) -> None:
    pass


async def raises_after_start(request: Request, client: Client) -> None:
    await client.start(200, {})
    raise RuntimeError("inside")


async def goes_on_after_the_end(request: Request, client: Client) -> None:
    await client.respond(
        500, {}, b'{"error": {"message": "", "type": "", "param": "", "code": "internal_error"}}'
    )
    await client.end(b"more")


async def breaks_a_line(request: Request, client: Client) -> None:
    await client.respond(200, {"X-Target": "a\r\nSet-Cookie: b"}, b"")


@pytest.mark.parametrize(
    "handler", [raises, returns, raises_after_start, breaks_a_line, goes_on_after_the_end]
)
def test_a_handler_that_fails_before_anything_left_is_a_500_and_the_connection_goes_on(
    handler: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with serving(handler) as served:
            wire = await served.connect()
            for _ in range(2):
                await wire.send(post())
                answer = await wire.answer()
                assert (answer.status, answer.error["code"]) == (500, "internal_error")
                assert "set-cookie" not in answer.headers
            await wire.close()

    run(test)
    assert len([record for record in caplog.records if record.name == "gateway.http.client"]) == 2


def test_a_handler_that_fails_in_mid_stream_cuts_the_connection() -> None:
    async def test() -> None:
        async def half(request: Request, client: Client) -> None:
            await client.start(200, {})
            await client.write(b"half")
            raise RuntimeError("inside")

        async with serving(half) as served:
            wire = await served.connect()
            await wire.send(post())
            await wire.head()
            assert await wire.reader.read() == b"4\r\nhalf\r\n"
            await wire.close()

    run(test)


def test_small_writes_are_not_held_back_by_the_kernel() -> None:
    async def test() -> None:
        async with serving() as served:
            wire = await served.connect()
            await wire.send(post())
            await wire.answer()
            (connection,) = served.state.connections
            ours = connection.transport.get_extra_info("socket")
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            await wire.close()

    run(test)


# Slow and leaving clients


def test_a_slow_client_holds_the_handler_up_and_not_the_memory() -> None:
    piece, count = b"x" * 200_000, 200
    written = 0

    async def test() -> None:
        async def much(request: Request, client: Client) -> None:
            nonlocal written
            await client.start(200, {})
            for _ in range(count):
                await client.write(piece)
                written += 1
            await client.end()

        async with serving(much) as served:
            wire = await served.connect(receive_bytes=65_536)
            await wire.send(post())
            before = -1
            while before != written:  # until it stands still
                before = written
                await asyncio.sleep(0.05)
            assert written < count
            (connection,) = served.state.connections
            assert connection.transport.get_write_buffer_size() < 65_536 + 2 * len(piece)
            assert (await wire.answer()).body == piece * count
            await wire.close()

    run(test)


async def leave_in_head(served: Served, wire: Wire) -> None:
    await wire.send(post()[:20])


async def leave_in_body(served: Served, wire: Wire) -> None:
    await wire.send(post(b"x" * 100)[:-10])


async def leave_before_the_answer(served: Served, wire: Wire) -> None:
    asked = len(served.requests)
    await wire.send(post(b"wait"))
    await eventually(lambda: len(served.requests) > asked)


async def leave_in_mid_stream(served: Served, wire: Wire) -> None:
    await wire.send(post(b"stream"))
    await wire.head()
    assert await wire.reader.readline() == b"4\r\n"


async def leave_with_requests_waiting(served: Served, wire: Wire) -> None:
    await wire.send(post(b"wait") + get("/x") + post(b"never") + post(b"ne")[:-1])
    await eventually(lambda: any(request.body == b"wait" for request in served.requests))


async def leave_without_reading(served: Served, wire: Wire) -> None:
    await wire.send(post(b"flood"))
    (connection,) = served.state.connections
    assert isinstance(connection, HttpToolsProtocol)
    await eventually(lambda: connection.flow.write_paused)


PHASES = [
    (leave_in_head, 0, 0),
    (leave_in_body, 0, 1),
    (leave_before_the_answer, 1, 0),
    (leave_in_mid_stream, 1, 0),
    (leave_with_requests_waiting, 1, 1),
    (leave_without_reading, 1, 0),
]


async def in_every_way(request: Request, client: Client) -> None:
    assert request.body != b"never"
    if request.body == b"wait":
        await asyncio.Event().wait()
    await client.start(200, {})
    if request.body == b"stream":
        await client.write(b"one ")
        await asyncio.Event().wait()
    while True:
        await client.write(b"x" * 1_000_000)


@pytest.mark.parametrize(("phase", "cancelled", "aborted"), PHASES)
@pytest.mark.parametrize("way", ["closes", "aborts", "half-closes"])
def test_a_client_that_leaves_ends_its_call_at_once_and_leaves_nothing_behind(
    phase: Callable[[Served, Wire], Awaitable[None]], cancelled: int, aborted: int, way: str
) -> None:
    rounds = 34  # × 3 ways

    async def test() -> None:
        async with serving(in_every_way) as served:
            files = len(os.listdir("/proc/self/fd"))
            for _ in range(rounds):
                served.requests.clear()
                wire = await served.connect()
                await phase(served, wire)
                if way == "aborts":
                    wire.writer.transport.abort()
                elif way == "half-closes" and phase is not leave_without_reading:
                    wire.writer.write_eof()
                    await eventually(lambda: not served.state.tasks)
                    wire.writer.close()
                else:
                    wire.writer.close()
                    wire.writer.transport.abort()
                await served.quiet()
            assert (served.left, served.aborted) == (cancelled * rounds, aborted * rounds)
            await asyncio.sleep(0.01)
            assert len(os.listdir("/proc/self/fd")) <= files

    run(test)


def test_a_client_that_has_its_whole_answer_cancels_nothing_by_leaving() -> None:
    finished = 0

    async def test() -> None:
        async def tidies_up(request: Request, client: Client) -> None:
            nonlocal finished
            await client.respond(200, {}, b"{}")
            await asyncio.sleep(0.02)
            finished += 1

        async with serving(tidies_up) as served:
            for _ in range(20):
                wire = await served.connect()
                await wire.send(post())
                await wire.answer()
                wire.writer.transport.abort()
                await served.quiet()
            assert (served.left, finished) == (0, 20)

    run(test)


# Limits


def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes() -> None:
    async def test() -> None:
        async with serving(limits=Limits(body_bytes=1_000)) as served:
            head = post(b"x" * 1_001, "Expect: 100-continue")[:-1_001]
            answer = await served.ask(head)
            assert (answer.status, answer.error["code"]) == (413, "body_too_large")
            assert answer.headers["connection"] == "close"
            assert served.requests == []

    run(test)


@pytest.mark.parametrize("is_chunked", [True, False])
def test_a_client_that_sends_too_much_gets_to_read_the_refusal(is_chunked: bool) -> None:
    async def test() -> None:
        async with serving(limits=Limits(body_bytes=1_000_000)) as served:
            wire = await served.connect()
            framing = "Transfer-Encoding: chunked" if is_chunked else "Content-Length: 5000000"
            await wire.send(f"POST {PATH} HTTP/1.1\r\n{framing}\r\n\r\n".encode())
            for _ in range(50):
                await wire.send(b"186a0\r\n" + b"x" * 100_000 + b"\r\n")
            answer = await wire.answer()
            assert (answer.status, answer.error["code"]) == (413, "body_too_large")
            assert await wire.reader.read() == b""
            await wire.close()
            assert (served.requests, served.aborted) == ([], 0)

    run(test)


def test_a_body_of_just_the_limit_is_served() -> None:
    async def test() -> None:
        async with serving(limits=Limits(body_bytes=300_000)) as served:
            assert (await served.ask(post(b"x" * 300_000))).body == b"x" * 300_000

    run(test)


def test_who_asks_before_sending_a_body_is_told_to_go_on() -> None:
    async def test() -> None:
        async with serving() as served:
            wire = await served.connect()
            raw = post(b"body", "Expect: 100-continue")
            for _ in range(2):
                await wire.send(raw[:-4])
                assert await wire.head() == (100, {})
                await wire.send(b"body")
                assert (await wire.answer()).body == b"body"
            await wire.close()

    run(test)


@pytest.mark.parametrize("raw", [b"\x16\x03\x01\x02", b"POST\r\n\r\n", post()[:-4] + b"Bad\x00: 1\r\n\r\n{}"])
def test_what_is_no_http_is_refused_in_openais_shape(raw: bytes) -> None:
    async def test() -> None:
        async with serving() as served:
            answer = await served.ask(raw)
            assert (answer.status, answer.error["code"]) == (400, "invalid_http")
            assert answer.headers["connection"] == "close"

    run(test)


@pytest.mark.parametrize(
    ("raw", "status", "type_"),
    [
        (post(b"{}", "Bad\x00: 1", path=MESSAGES), 400, "invalid_request_error"),
        (post(b"{}", path=MESSAGES + "?beta=true")[:60], 408, "timeout_error"),
        (post(b"{}", path=MESSAGES)[:-1], 408, "timeout_error"),
        (post(b"x" * 1_001, path=MESSAGES + "?beta=true"), 413, "request_too_large"),
        (post(b"{}", "X-Long: " + "y" * 70_000, path=MESSAGES), 431, "invalid_request_error"),
    ],
)
def test_a_refusal_has_the_shape_of_its_paths_api(raw: bytes, status: int, type_: str) -> None:
    async def test() -> None:
        async with serving(limits=Limits(body_bytes=1_000, head_s=0.1, body_idle_s=0.1)) as served:
            answer = await served.ask(raw)
            said = json.loads(answer.body)
            assert (answer.status, set(said)) == (status, {"type", "error", "request_id"})
            assert (said["type"], said["error"]["type"]) == ("error", type_)

    run(test)


def test_a_failure_of_the_handler_has_the_shape_of_its_paths_api() -> None:
    async def test() -> None:
        async with serving(raises) as served:
            answer = await served.ask(post(path=MESSAGES))
            assert (answer.status, json.loads(answer.body)["error"]["type"]) == (500, "api_error")

    run(test)


def test_garbage_after_an_answer_is_not_of_the_path_before_it() -> None:
    async def test() -> None:
        async with serving() as served:
            wire = await served.connect()
            await wire.send(post(path=MESSAGES))
            await wire.answer()
            await wire.send(b"\x16\x03\x01\x02")
            assert (await wire.answer()).error["code"] == "invalid_http"
            await wire.close()

    run(test)


def test_garbage_behind_a_running_call_does_not_disturb_it() -> None:
    async def test() -> None:
        async def slow(request: Request, client: Client) -> None:
            await asyncio.sleep(0.05)
            await client.respond(200, {}, request.body)

        async with serving(slow) as served:
            wire = await served.connect()
            await wire.send(post(b"fine") + b"\x00\x01garbage\r\n\r\n")
            assert (await wire.answer()).body == b"fine"
            assert (await wire.answer()).status == 400
            assert await wire.reader.read() == b""
            await wire.close()

    run(test)


@pytest.mark.parametrize("pause_s", [0, 0.001])
def test_endless_headers_are_refused(pause_s: float) -> None:
    async def test() -> None:
        async with serving() as served:
            for line in ("X-Long: " + "y" * 70_000, "\r\n".join(f"X-{n}: 1" for n in range(300))):
                wire = await served.connect()
                raw = post(b"{}", line)
                for start in range(0, len(raw), 8_192):
                    await wire.send(raw[start : start + 8_192])
                    await asyncio.sleep(pause_s)
                answer = await wire.answer()
                assert (answer.status, answer.error["code"]) == (431, "headers_too_large")
                await wire.close()
            assert served.requests == []

    run(test)


def test_endless_trailers_are_refused() -> None:
    async def test() -> None:
        async with serving() as served:
            wire = await served.connect()
            await wire.send(
                f"POST {PATH} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Late: ".encode()
            )
            for _ in range(20):
                await wire.send(b"y" * 8_192)
                await asyncio.sleep(0.001)
            assert (await wire.answer()).status == 431
            await wire.close()

    run(test)


@pytest.mark.parametrize("sent", [1, 30, len(post(b"{}")) - 1])
def test_a_request_that_does_not_come_in_time_is_given_up(sent: int) -> None:
    async def test() -> None:
        async with serving(limits=Limits(head_s=0.1, body_idle_s=0.1)) as served:
            answer = await served.ask(post(b"{}")[:sent])
            assert (answer.status, answer.error["code"]) == (408, "request_timeout")

    run(test)


def test_trickled_headers_do_not_buy_time_but_a_body_that_keeps_coming_does() -> None:
    async def test() -> None:
        async with serving(limits=Limits(head_s=0.15, body_idle_s=0.15, bytes_per_s=50)) as served:
            wire = await served.connect()
            raw = post(b"0123456789" * 4)
            await wire.send(raw[:-40])
            for byte in raw[-40:]:
                await wire.send(bytes([byte]))
                await asyncio.sleep(0.01)
            assert (await wire.answer()).status == 200
            for byte in raw[:60]:
                wire.writer.write(bytes([byte]))
                await asyncio.sleep(0.01)
            assert (await wire.answer()).status == 408
            await wire.close()

    run(test)


def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    async def test() -> None:
        async def slow(request: Request, client: Client) -> None:
            await asyncio.sleep(0.3)
            await client.respond(200, {}, request.body)

        async with serving(slow, keep_alive_s=0.1) as served:
            wire = await served.connect()
            await wire.send(post(b"a"))
            assert (await wire.answer()).body == b"a"
            assert await wire.reader.read() == b""
            await wire.close()
            silent = await served.connect()
            assert await silent.reader.read() == b""
            await silent.close()

    run(test)


# The whole server


def test_a_server_that_shuts_down_finishes_running_calls_and_takes_no_others() -> None:
    async def test() -> None:
        going = asyncio.Event()

        async def slow(request: Request, client: Client) -> None:
            await client.start(200, {})
            await client.write(b"one ")
            going.set()
            await asyncio.sleep(0.3)
            await client.end(b"two")

        kind = data_plane(PATHS, slow)
        config = uvicorn.Config(
            app, http=kind, loop="uvloop", lifespan="off", interface="asgi3", server_header=False
        )
        config.log_level = None
        server = uvicorn.Server(config)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            serving = asyncio.create_task(server.serve([listening]))
            await eventually(lambda: server.started)
            wires = [Wire(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(2)]
            busy, idle = wires
            await busy.send(post())
            await going.wait()
            server.should_exit = True
            answer = await busy.answer()
            assert answer.body == b"one two"
            assert "date" in answer.headers
            assert "server" not in answer.headers
            assert await busy.reader.read() == b""
            assert await idle.reader.read() == b""
            await serving
            for wire in wires:
                await wire.close()

    run(test)


def test_a_server_out_of_patience_cuts_what_still_runs() -> None:
    async def test() -> None:
        async with serving(in_every_way) as served:
            wire = await served.connect()
            await wire.send(post(b"stream"))
            await wire.head()
            for task in served.state.tasks:
                task.cancel()
            await served.quiet()
            await wire.close()

    run(test)
