"""`Server`: uvicorn's, which takes every connection that was made before it stops listening.

A connection is made by the kernel, and waits until the process takes it. One that still waits as the socket is closed
would be reset, and a call with it that its client believes to be under way.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress

import uvicorn


class Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        listening = [
            socket.socket(fileno=os.dup(one.fileno())) for server in self.servers for one in server.sockets
        ]
        for server in self.servers:
            server.close()
        for one in sockets or []:
            one.close()
        await asyncio.sleep(0)  # uvloop closes its own after that
        arrived = [connection for one in listening for connection in _last_of(one)]
        loop = asyncio.get_running_loop()
        for connection in arrived:
            await loop.connect_accepted_socket(self._protocol, connection)
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        make = self.config.http_protocol_class
        return make(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


def _last_of(listening: socket.socket) -> list[socket.socket]:
    """All connections that wait, and the end of listening."""
    found: list[socket.socket] = []
    listening.setblocking(False)
    with listening, suppress(OSError):  # at last there is none
        while True:
            connection, _ = listening.accept()
            connection.setblocking(False)
            found.append(connection)
    return found
