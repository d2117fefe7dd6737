"""The least a Python gateway can do, to measure ours against: bare ASGI on uvicorn, aiohttp towards the upstream.

`python -m gateway.bench.gateway.bare PORT UPSTREAM_URL KEY`. For each call: checks the key, decodes the body, puts
another model name into it, passes the answer on, reads its usage. No routing, retries, limits, deadlines or record.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import aiohttp
import orjson
import uvicorn

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_MODEL = "mock-model"


class Bare:
    """An ASGI app. `tokens` counts what the answers say they used."""

    def __init__(self, upstream_url: str, key: str) -> None:
        self._url, self._authorization = upstream_url, b"Bearer " + key.encode()
        self._session: aiohttp.ClientSession | None = None
        self.tokens = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if dict(scope["headers"]).get(b"authorization") != self._authorization:
            return await _answer(send, 401, b"application/json", b'{"error":{"message":"unknown key"}}')
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        body = orjson.loads(await _body(receive))
        body["model"] = _MODEL
        headers = {"Content-Type": "application/json"}
        async with self._session.post(self._url, data=orjson.dumps(body), headers=headers) as reply:
            kind = reply.headers["Content-Type"].encode()
            if not body.get("stream"):
                whole = await reply.read()
                self.tokens += orjson.loads(whole)["usage"]["total_tokens"]
                return await _answer(send, reply.status, kind, whole)
            await send(
                {"type": "http.response.start", "status": reply.status, "headers": [(b"content-type", kind)]}
            )
            async for piece in reply.content.iter_any():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})


async def _body(receive: Receive) -> bytes:
    message = await receive()
    body: bytes = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    return body


async def _answer(send: Send, status: int, kind: bytes, body: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    port, upstream_url, key = sys.argv[1:]
    uvicorn.run(
        Bare(upstream_url, key),
        port=int(port),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
