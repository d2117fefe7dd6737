"""One gateway worker: the data plane's paths to dispatch, everything else to the control plane.

`GatewayApp` is the ASGI app of the control plane and of start and stop; `serve_call` answers the data plane, whose
HTTP is `gateway.http`'s. In: `Parts`, put together in `gateway.assemble`. Out: responses. This is the only
place where an unexpected exception is caught; it is logged once, and the client gets a 500 in its API's shape.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import OperationalError

from gateway.callers.keys import Key
from gateway.callers.quotas import Quotas, Refused
from gateway.control.key_watch import KeyWatch
from gateway.dispatch.call import Call, Client, ErrorForm
from gateway.dispatch.serve import Dispatcher, send_error
from gateway.http.protocol import data_plane
from gateway.http.request import Limits, Request
from gateway.http.turns import Turns
from gateway.surfaces import chat, count_tokens, embeddings, messages, responses
from gateway.surfaces.authenticate import authenticate
from gateway.surfaces.common import OPENAI_ERRORS, Asked, decoded
from gateway.surfaces.homes import ResponseHomes
from gateway.wire import paths
from gateway.wire.errors import BudgetSpent, GatewayError, ModelNotAllowed, RateLimited, TokensLimited

log = logging.getLogger(__name__)
Scope = dict[str, Any]
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
READY = "/ready"
CALL = ("call", "admin")
Answering = Callable[[Dispatcher, Asked, Call], Awaitable[tuple[int, dict[str, str], bytes]]]


@dataclass(frozen=True, slots=True)
class Surface:
    """One API of the data plane: what a request of it means, and how it says errors."""

    call_of: Callable[[Asked], Call]
    errors: ErrorForm
    answer: Answering | None = None  # where there is nothing to dispatch
    recall: Callable[[Asked], Awaitable[None]] | None = None  # what the call refers to, before it is read


SURFACES: Mapping[str, Surface] = {
    paths.CHAT: Surface(chat.call_of, OPENAI_ERRORS),
    paths.COMPLETIONS: Surface(chat.call_of, OPENAI_ERRORS),
    paths.EMBEDDINGS: Surface(embeddings.call_of, OPENAI_ERRORS),
    paths.RESPONSES: Surface(responses.call_of, responses.ERRORS, recall=responses.recall),
    paths.MESSAGES: Surface(messages.call_of, messages.ERRORS),
    paths.COUNT_TOKENS: Surface(count_tokens.call_of, messages.ERRORS, count_tokens.count),
}


@dataclass(frozen=True, slots=True)
class Parts:
    """What serving needs: the dispatcher, keys and their limits, and the control plane as an app of its own."""

    dispatcher: Dispatcher
    keys: KeyWatch
    quotas: Quotas
    homes: ResponseHomes
    control: AsgiApp


class GatewayApp:
    """`lifespan` yields what calls need once everything is loaded."""

    def __init__(self, lifespan: Callable[[], AbstractAsyncContextManager[Parts]]) -> None:
        self.lacks_database = False  # which is why it could not start
        self._lifespan = lifespan
        self._parts: Parts | None = None
        self._protocol: type[Turns] = Turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
        elif scope["type"] == "http":
            assert self._parts is not None
            if scope["path"] == READY and scope["method"] == "GET":
                await _ready(send, is_leaving=self._protocol.is_leaving)
            else:
                await self._parts.control(scope, receive, send)

    def leave(self) -> None:
        """It will be told to stop soon: `/ready` says so from now on, and calls are still served."""
        self._protocol.is_leaving = True

    async def serve(self, request: Request, client: Client) -> None:
        """A request to one of the data plane's paths."""
        assert self._parts is not None
        await serve_call(self._parts, request, client)

    def protocol(self, limits: Limits | None = None) -> type[Turns]:
        """The class to give uvicorn as `http`, which takes the data plane's paths to `serve`."""
        error_bodies = {path: surface.errors.body for path, surface in SURFACES.items()}
        self._protocol = data_plane(
            error_bodies,
            self.serve,
            limits,
            on_aborted_upload=self._count_aborted_upload,
            admit=self._admit,
        )
        return self._protocol

    def _admit(self, headers: Mapping[str, str]) -> Key:
        assert self._parts is not None
        return authenticate(headers, self._parts.keys.ring, CALL)

    def _count_aborted_upload(self) -> None:
        assert self._parts is not None
        self._parts.dispatcher.book.metrics.aborted_uploads.inc()

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        """Start-up errors are for the log and the exit status; uvicorn is told in one line."""
        await receive()
        try:
            async with self._lifespan() as self._parts:
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception as error:
            self.lacks_database = isinstance(error, OperationalError)
            log.error("start-up failed: %s", error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})


async def _ready(send: Send, *, is_leaving: bool) -> None:
    """Policy and keys are loaded before anything is served. All workers listen on one socket: one says which it is."""
    head = [(b"content-type", b"application/json")]
    body = b'{"status":"%b","worker":%d}' % (b"leaving" if is_leaving else b"ok", os.getpid())
    await send({"type": "http.response.start", "status": 503 if is_leaving else 200, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def serve_call(parts: Parts, request: Request, client: Client) -> None:
    """One data-plane call. A client that leaves cancels this coroutine, in every phase."""
    surface = SURFACES[request.path]
    try:
        key = authenticate(request.headers, parts.keys.ring, CALL)
        body, url_query = decoded(request.body), request.query.decode("ascii", "ignore")
        asked = Asked(request.path, request.headers, request.body, body, key.name, url_query, parts.homes)
        if surface.recall is not None:
            await surface.recall(asked)
        call = surface.call_of(asked)
        query = call.query
        tokens = query.input_tokens + (query.max_output_tokens or 0)
        grant = parts.quotas.admit(key, query.model, tokens, time.time())
        try:
            if surface.answer is not None:
                await client.respond(*await surface.answer(parts.dispatcher, asked, call))
            else:
                await parts.dispatcher.serve(call, grant, client, request.arrived)
        finally:
            grant.settle(None)  # dispatch has, unless it failed
    except Refused as refused:
        parts.dispatcher.book.metrics.refused(refused.limit)
        await send_error(client, _of_limits(refused), surface.errors)
    except GatewayError as error:
        parts.dispatcher.book.metrics.refused(error.code)
        await send_error(client, error, surface.errors)
    except Exception:
        log.exception("a call failed inside the gateway")
        ours = GatewayError("the gateway failed on this call; its log says why")
        await send_error(client, ours, surface.errors)


_LIMITS: Mapping[str, type[GatewayError]] = {
    "models": ModelNotAllowed,
    "requests": RateLimited,
    "parallel": RateLimited,
    "tokens": TokensLimited,
    "budget": BudgetSpent,
}


def _of_limits(refused: Refused) -> GatewayError:
    error = _LIMITS[refused.limit](refused.message, retry_after_s=refused.retry_after_s)
    error.headers = refused.headers
    return error
