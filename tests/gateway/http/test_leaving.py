"""A server that stops takes no connection away from a request that is on its way, and says `Connection: close`."""

from __future__ import annotations

import asyncio

import pytest

from gateway.http.client import Client
from gateway.http.request import Request
from tests.gateway.http.test_protocol import Served, get, post, run, serving


def stop(served: Served) -> None:
    """As uvicorn does once it no longer listens."""
    for connection in list(served.state.connections):
        connection.shutdown()


@pytest.mark.parametrize("request_", [post(b"a"), get("/elsewhere")])
def test_a_request_that_comes_just_after_is_answered_as_the_last(request_: bytes) -> None:
    async def test() -> None:
        async with serving() as served:
            new, used = await served.connect(), await served.connect()
            await used.send(post(b"before"))
            assert "connection" not in (await used.answer()).headers
            stop(served)
            for wire in (new, used):
                await wire.send(request_)
                answer = await wire.answer()
                assert (answer.status, answer.headers["connection"]) == (200, "close")
                assert await wire.reader.read() == b""
                await wire.close()

    run(test)


def test_an_idle_connection_is_closed_a_little_later_and_a_request_in_parts_served() -> None:
    async def test() -> None:
        async with serving() as served:
            idle, slow = await served.connect(), await served.connect()
            raw = post(b"slow")
            await slow.send(raw[:20])
            await asyncio.sleep(0.05)
            stop(served)
            assert await idle.reader.read() == b""
            await slow.send(raw[20:])
            answer = await slow.answer()
            assert (answer.body, answer.headers["connection"]) == (b"slow", "close")
            await idle.close()
            await slow.close()

    run(test)


def test_a_running_stream_ends_in_peace_and_then_the_connection() -> None:
    goes_on = asyncio.Event()

    async def stream(_: Request, client: Client) -> None:
        await client.start(200, {})
        await client.write(b"one ")
        await goes_on.wait()
        await client.end(b"two")

    async def test() -> None:
        async with serving(stream) as served:
            wire = await served.connect()
            await wire.send(post())
            await wire.head()
            stop(served)
            goes_on.set()
            assert (await wire.reader.read()).endswith(b"two\r\n0\r\n\r\n")
            await wire.close()

    run(test)
