"""What clients may cost before anybody knows who they are, and how long they may hold what is theirs."""

from __future__ import annotations

import asyncio
import resource
import socket
import subprocess
import sys
from collections.abc import Mapping

import pytest

from gateway.http.client import Client
from gateway.http.request import OWN_FILES, Limits, Request
from gateway.wire.errors import Unauthorized
from tests.gateway.http.test_protocol import PATH, Served, eventually, get, post, run, serving

KIB = 1024
CHUNKED = f"POST {PATH} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n".encode()


def refuse(headers: Mapping[str, str]) -> None:
    if headers.get("authorization") != "Bearer good":
        raise Unauthorized("no")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.mark.parametrize("is_chunked", [False, True])
def test_no_large_body_of_a_stranger_is_read(is_chunked: bool) -> None:
    async def test() -> None:
        async with serving(limits=Limits(strangers_bytes=100), admit=refuse) as served:
            begun = CHUNKED + chunk(b"x" * 101) if is_chunked else post(b"x" * 101)[:-101]
            answer = await served.ask(begun)
            assert (answer.status, answer.headers["connection"]) == (401, "close")
            assert (await served.ask(post(b"x" * 100))).status == 200  # who it is, the app finds out
            assert len(served.requests) == 1

    run(test)


@pytest.mark.parametrize("is_chunked", [False, True])
def test_who_is_known_may_send_more(is_chunked: bool) -> None:
    async def test() -> None:
        async with serving(limits=Limits(strangers_bytes=100, body_bytes=1_000), admit=refuse) as served:
            key = "Authorization: Bearer good"
            chunked = CHUNKED[:-2] + f"{key}\r\n\r\n".encode() + chunk(b"x" * 600) + chunk(b"x" * 400)
            answer = await served.ask(chunked + b"0\r\n\r\n" if is_chunked else post(b"x" * 1_000, key))
            assert (answer.status, len(answer.body)) == (200, 1_000)
            assert (
                await served.ask(chunked + chunk(b"x") if is_chunked else post(b"x" * 1_001, key))
            ).status == 413

    run(test)


def test_the_app_gets_no_large_body() -> None:
    async def test() -> None:
        async with serving(limits=Limits(app_bytes=100)) as served:
            assert (await served.ask(post(b"x" * 100, path="/admin/keys"))).status == 200
            assert (await served.ask(post(b"x" * 101, path="/admin/keys")[:-101])).status == 413
            wire = await served.connect()
            await wire.send(CHUNKED.replace(PATH.encode(), b"/admin/keys") + chunk(b"x" * 101))
            assert await wire.reader.read() == b""
            await wire.close()

    run(test)


def test_the_app_waits_for_no_slow_body() -> None:
    async def test() -> None:
        async with serving(limits=Limits(body_idle_s=0.1)) as served:
            wire = await served.connect()
            await wire.send(post(b"xx", path="/admin/keys")[:-1])
            assert await wire.reader.read() == b""
            await wire.close()

    run(test)


def test_a_body_that_trickles_is_given_up() -> None:
    async def test() -> None:
        async with serving(limits=Limits(body_idle_s=0.1, bytes_per_s=1_000)) as served:
            wire = await served.connect()
            await wire.send(post(b"x" * 1_000)[:-1_000])
            answering = asyncio.ensure_future(wire.answer())
            while not answering.done():
                await wire.send(b"x")
                await asyncio.sleep(0.01)
            assert (await answering).error["code"] == "request_timeout"
            await wire.close()

    run(test)


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "gzip, identity"])
def test_a_compressed_body_is_refused_before_it_is_read(encoding: str) -> None:
    async def test() -> None:
        async with serving() as served:
            answer = await served.ask(post(b"x" * 10, f"Content-Encoding: {encoding}")[:-10])
            assert (answer.status, answer.error["code"]) == (415, "unsupported_content_encoding")
            assert (await served.ask(post(b"{}", "Content-Encoding: identity"))).status == 200

    run(test)


@pytest.mark.parametrize(
    "lines",
    [
        ("Transfer-Encoding: chunked",),  # beside a Content-Length
        ("Content-Length: 2", "Content-Length: 3"),
        ("Transfer-Encoding: chunked, identity",),
        ("Transfer-Encoding : chunked",),
        ("Transfer-Encoding:\x0bchunked",),
        ("X-Folded: a\r\n Content-Length: 40",),
        ("Content-Length: +2",),
        ("Content-Length: 0x2",),
    ],
)
def test_a_request_that_two_readers_may_cut_differently_is_refused(lines: tuple[str, ...]) -> None:
    """None of them makes a second request out of the first one's body."""

    async def test() -> None:
        async with serving() as served:
            smuggled = b"0\r\n\r\n" + post(b"smuggled")
            wire = await served.connect()
            await wire.send(post(smuggled, *lines))
            answer = await wire.answer()
            await wire.close()
            bodies = [request.body for request in served.requests]
            assert b"smuggled" not in bodies
            assert answer.status == 400 or bodies == [smuggled]

    run(test)


async def stall(served: Served, raw: bytes, kept_bytes: int = 8 * KIB) -> socket.socket:
    """A client that takes nothing of its answer, and whose kernel takes little."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, kept_bytes)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", served.port))
    await loop.sock_sendall(client, raw)
    return client


async def flood(request: Request, client: Client) -> None:
    await client.start(200, {})
    while True:
        await client.write(b"x" * 64 * KIB)


async def large(request: Request, client: Client) -> None:
    await client.respond(200, {}, b"x" * 16 * KIB * KIB)


@pytest.mark.parametrize("line", ["X: y", "Connection: close"])
@pytest.mark.parametrize("handler", [flood, large])
def test_who_takes_nothing_is_cut_off_and_holds_nothing(handler: object, line: str) -> None:
    async def test() -> None:
        async with serving(handler, limits=Limits(unread_s=0.1)) as served:  # type: ignore[arg-type]
            with await stall(served, post(b"{}", line)):
                await eventually(lambda: bool(served.requests))
                await served.quiet()
            assert served.left == (handler is flood)

    run(test)


def test_who_takes_its_answer_late_but_takes_it_is_not_cut_off() -> None:
    async def test() -> None:
        async with serving(large, limits=Limits(unread_s=0.05)) as served:
            with await stall(served, post(b"{}", "Connection: close"), 256 * KIB) as client:
                loop, read = asyncio.get_running_loop(), 0
                while part := len(await loop.sock_recv(client, KIB * KIB)):
                    read += part
                    await asyncio.sleep(0.005)
                assert read > 16 * KIB * KIB

    run(test)


def test_a_worker_without_room_says_so_and_has_room_again() -> None:
    async def test() -> None:
        async with serving(limits=Limits(connections=2)) as served:
            held = [await served.connect() for _ in range(2)]
            await eventually(lambda: len(served.state.connections) == 2)
            wire = await served.connect()
            answer = await wire.answer()
            assert (answer.status, answer.error["code"]) == (503, "too_many_connections")
            assert await wire.reader.read() == b""
            await wire.close()
            await held[0].close()
            await eventually(lambda: len(served.state.connections) == 1)
            assert (await served.ask(get("/health"))).status == 200
            await held[1].close()

    run(test)


@pytest.mark.parametrize(("soft", "hard", "most"), [(100, 2_200, 1_000), (64, 64, 1), (1_024, 4_096, 1_948)])
def test_a_worker_takes_no_more_clients_than_it_has_descriptors_for(soft: int, hard: int, most: int) -> None:
    assert most == max(1, (hard - OWN_FILES) // 2)
    code = "from gateway.http.request import most_connections as m; print(m())"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=60, check=True, preexec_fn=limit
    )
    assert int(ran.stdout) == most
