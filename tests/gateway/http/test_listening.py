"""A server that stops answers every connection that was made before it did."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
import uvicorn

from gateway.http.client import Client
from gateway.http.listening import Server
from gateway.http.protocol import data_plane
from gateway.http.request import Request

COUNT = 20
REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


class Busy(Server):
    """Others connect just before it stops listening, when it takes none any more."""

    stops: threading.Event
    connected: threading.Event

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.stops.set()
        assert self.connected.wait(30)
        await super().shutdown(sockets)


async def answer(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


async def no_handler(request: Request, client: Client) -> None:
    raise AssertionError("every request goes to the app")


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_connections_that_wait_as_it_stops_are_answered(loop: str) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    address = listening.getsockname()
    server = Busy(uvicorn.Config(answer, loop=loop, http=data_plane({}, no_handler), log_level="critical"))
    server.stops, server.connected = threading.Event(), threading.Event()
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    clients = [socket.create_connection(address, timeout=30)]
    clients[0].sendall(REQUEST)
    assert clients[0].recv(12) == b"HTTP/1.1 200"
    server.should_exit = True
    assert server.stops.wait(30)
    for _ in range(COUNT):
        clients.append(socket.create_connection(address, timeout=30))
        clients[-1].sendall(REQUEST)
    server.connected.set()
    try:
        assert [client.recv(12) for client in clients[1:]] == [b"HTTP/1.1 200"] * COUNT
        thread.join(30)
        assert not thread.is_alive()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
    finally:
        for client in clients:
            client.close()
