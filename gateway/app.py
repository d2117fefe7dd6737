"""One gateway worker as an ASGI app: the data plane's paths first, everything else to the control plane.

Pure ASGI, no middleware. In: `Parts`, put together in `gateway.assemble`. Out: responses. This is the only
place where an unexpected exception is caught; it is logged once, and the client gets a 500 in OpenAI's shape.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from gateway.control.key_watch import KeyWatch
from gateway.dispatch.call import Call, Client, Receive, Send
from gateway.dispatch.serve import Dispatcher, send_error
from gateway.surfaces.completions import CHAT, COMPLETIONS, completions_call
from gateway.surfaces.http import ClientLeft, authenticate, cancel_when_gone, headers_of, read_json
from gateway.wire.errors import GatewayError, error_event

log = logging.getLogger(__name__)
Scope = dict[str, Any]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
CALL = ("call", "admin")


class GatewayApp:
    """`lifespan` yields what calls need once everything is loaded."""

    def __init__(self, lifespan: Callable[[], AbstractAsyncContextManager[Parts]]) -> None:
        self._lifespan = lifespan
        self._parts: Parts | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
        elif scope["type"] == "http":
            assert self._parts is not None
            if scope["method"] == "POST" and scope["path"] in (CHAT, COMPLETIONS):
                await serve_call(self._parts, scope, receive, send)
            else:
                await self._parts.control(scope, receive, send)

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        """Start-up errors are for the log and the exit status; uvicorn is told in one line."""
        await receive()
        try:
            async with self._lifespan() as self._parts:
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception as error:
            log.error("start-up failed: %s", error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})


class Parts:
    """What serving needs: the dispatcher, the keys, and the control plane as an app of its own."""

    def __init__(self, dispatcher: Dispatcher, keys: KeyWatch, control: AsgiApp) -> None:
        self.dispatcher, self.keys, self.control = dispatcher, keys, control


async def serve_call(parts: Parts, scope: Scope, receive: Receive, send: Send) -> None:
    """One data-plane call. A client that leaves cancels the work on its answer, in every phase."""
    arrived = time.monotonic()
    client = Client(send)
    headers = headers_of(scope)
    try:
        key = authenticate(headers, parts.keys.ring, CALL)
        body = await read_json(receive)
        call = completions_call(scope["path"], headers, body, key.name)
    except GatewayError as error:
        await send_error(client, error)
        return
    except ClientLeft:
        return
    await _until_client_leaves(receive, _serve(parts.dispatcher, call, key.name, client, arrived))


async def _until_client_leaves(receive: Receive, serving: Awaitable[None]) -> None:
    """Runs `serving` in this task, cancelled when the client closes; any other cancellation passes through."""
    task = asyncio.current_task()
    assert task is not None
    watcher = asyncio.create_task(cancel_when_gone(receive, task))
    try:
        await serving
    except asyncio.CancelledError:
        if not watcher.done():
            raise
        task.uncancel()
    finally:
        watcher.cancel()


async def _serve(dispatcher: Dispatcher, call: Call, caller: str, client: Client, arrived: float) -> None:
    try:
        await dispatcher.serve(call, caller, client, arrived)
    except GatewayError as error:
        await send_error(client, error)
    except Exception:
        log.exception("a call failed inside the gateway")
        await _fail(client, GatewayError("the gateway failed on this call; its log says why"))


async def _fail(client: Client, error: GatewayError) -> None:
    """Before the first byte an error response, after it an error event."""
    if client.is_started:
        await client.end(error_event(error.value()))
    else:
        await send_error(client, error)
