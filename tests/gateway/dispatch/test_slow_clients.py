"""A client that reads slower than its target writes: the target waits, and the gateway's memory does not grow."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import psutil

from tests.fakes import DONE, chunk
from tests.gateway.conftest import CHAT, HELLO, Gateway, eventually, running_gateway
from tests.raw_upstream import END, Line, RawUpstream, framed, head, raw_upstream

MB = 1024**2
EVENT = chunk("x" * 16_000)
EVENTS = 50 * MB // len(EVENT)
END_OF_ANSWER = chunk(finish_reason="stop") + DONE
MAX_GROWTH_BYTES = 20 * MB
SMALL_BUFFER_BYTES = 64 * 1024  # the kernel's own buffers would take much of the stream


async def flood(line: Line, asked: dict[str, Any]) -> None:
    await line.send(head())
    for _ in range(EVENTS):
        await line.send(framed(EVENT))
    await line.send(framed(END_OF_ANSWER) + END)


def test_a_slow_client_holds_its_target_back(clean_database_url: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with raw_upstream(flood) as target:
            limits = {"a": {"base_url": target.url}}
            async with running_gateway(
                clean_database_url, tmp_path, "version: 1\n", ("a",), limits
            ) as gateway:
                await _read_slowly(gateway, target)
                row = (await gateway.exchange())["exchange"]
                assert (row["status"], row["error_code"], row["finish_reason"]) == (200, None, "stop")

    asyncio.run(test())


async def _read_slowly(gateway: Gateway, target: RawUpstream) -> None:
    process = psutil.Process()
    loop, taken = asyncio.get_running_loop(), bytearray(SMALL_BUFFER_BYTES)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", int(gateway.url.rpartition(":")[2])))
        before = process.memory_info().rss
        await loop.sock_sendall(client, _request(gateway))
        await eventually(lambda: any(line.is_held_back for line in target.lines))
        await asyncio.sleep(0.5)  # enough for all of the answer, were it let
        (line,) = target.lines
        read = largest = 0
        last = b""
        while not last.endswith(b"\r\n0\r\n\r\n"):
            size = await loop.sock_recv_into(client, taken)
            assert size, "the answer broke off"
            read, last = read + size, (last + taken[:size])[-64:]
            largest = max(largest, process.memory_info().rss)
            assert line.sent_bytes - read < MAX_GROWTH_BYTES, "the target is not held back"
        assert read >= EVENTS * len(EVENT)
        assert DONE in last
        print(f"\n{read / MB:.0f} MB, memory grew by {(largest - before) / MB:.1f} MB")
        assert largest - before < MAX_GROWTH_BYTES


def _request(gateway: Gateway) -> bytes:
    raw = json.dumps(HELLO | {"stream": True}).encode()
    fields = gateway.headers | {"Host": "gateway", "Content-Length": str(len(raw))}
    lines = [f"POST {CHAT} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + raw
