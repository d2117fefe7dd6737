"""`/v1/responses/{id}`: responses that targets keep: read, deleted, cancelled, at the target that made them.

In: requests of the caller whose response it is. Out: the target's answer, byte for byte. They are not routed, nor
ever asked of another target. Nothing is computed, so the ledger has no row of them, which every rate and average
would count as a call, and a key's limits do not count them: `sparkgate_stored_responses_total` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway.dispatch.serve import Dispatcher
from gateway.dispatch.walk import OUR_ACCOUNT
from gateway.surfaces.authenticate import authenticate
from gateway.surfaces.homes import ResponseHomes
from gateway.upstreams.base import CutOff, Reply, Unreachable
from gateway.upstreams.openai_http import HttpUpstream, Method
from gateway.wire.errors import GatewayError, NotFound, UpstreamFailed, UpstreamTimeout
from gateway.wire.paths import RESPONSES
from gateway.wire.responses import error_event
from gateway.wire.sse import EventSplitter, EventTooLarge
from router.policy import Timeouts

SCOPES = ("call", "admin")
PASSED_HEADERS = ("content-type", "x-request-id", "retry-after")
OPERATIONS: tuple[tuple[str, Method, str], ...] = (
    ("retrieve", "GET", ""),
    ("delete", "DELETE", ""),
    ("cancel", "POST", "/cancel"),
    ("input_items", "GET", "/input_items"),
)
_OURS = OUR_ACCOUNT - {404}  # the response may be gone, of which its caller is to hear


def router(homes: ResponseHomes, keepers: Mapping[str, HttpUpstream], dispatcher: Dispatcher) -> APIRouter:
    """`keepers`: every target that `homes` may name."""
    routes = APIRouter(prefix=RESPONSES)
    for operation, method, below in OPERATIONS:
        endpoint = _endpoint(homes, keepers, dispatcher, operation, method, below)
        routes.add_api_route("/{response_id}" + below, endpoint, methods=[method])
    return routes


def _endpoint(
    homes: ResponseHomes,
    keepers: Mapping[str, HttpUpstream],
    dispatcher: Dispatcher,
    operation: str,
    method: Method,
    below: str,
) -> Callable[[str, Request], Awaitable[Response]]:
    async def relay(response_id: str, request: Request) -> Response:
        key = authenticate(request.headers, request.app.state.keys.ring, SCOPES)
        counted = dispatcher.book.metrics.stored_responses
        target: str | None = None
        try:
            target = await homes.find(response_id, key.name)
            if target is None:
                raise NotFound(f"Response with id '{response_id}' not found.", code="response_not_found")
            query = request.scope["query_string"].decode("ascii", "ignore")
            path = f"{RESPONSES}/{response_id}{below}" + (f"?{query}" if query else "")
            timeouts = dispatcher.policy().defaults.timeouts
            answer = await _ask(target, keepers[target], method, path, timeouts)
        except GatewayError as error:
            counted.labels(target or "none", operation, str(error.status)).inc()
            raise
        counted.labels(target, operation, str(answer.status_code)).inc()
        return answer

    return relay


async def _ask(
    target: str, upstream: HttpUpstream, method: Method, path: str, timeouts: Timeouts
) -> Response:
    """The target's answer: whole within `first_token_s`, or a stream that has begun by then."""
    reply: Reply | None = None
    try:
        async with asyncio.timeout(timeouts.first_token_s):
            reply = await upstream.ask(method, path)
            headers = {name: reply.headers[name] for name in PASSED_HEADERS if name in reply.headers}
            headers["X-Sparkgate-Target"] = target
            if headers.get("content-type", "").startswith("text/event-stream"):
                streamed, reply = _Streamed(reply, timeouts.idle_s, headers), None
                return streamed
            raw = await reply.read()
            status = reply.status
    except TimeoutError:
        message = f"target '{target}' did not answer within the policy's first_token_s"
        raise UpstreamTimeout(message) from None
    except (Unreachable, CutOff) as error:
        raise UpstreamFailed(f"target '{target}' failed: {error}") from error
    finally:
        if reply is not None:
            reply.close()
    if status in _OURS:
        raise UpstreamFailed(f"target '{target}' refuses the gateway's own key (HTTP {status})")
    return Response(raw, status, headers)


class _Streamed(StreamingResponse):
    """A stream as it comes; one that breaks off ends in an error event behind its last whole one."""

    def __init__(self, reply: Reply, idle_s: float, headers: dict[str, str]) -> None:
        super().__init__(self._pieces(idle_s), reply.status, headers)
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._reply.close()

    async def _pieces(self, idle_s: float) -> AsyncIterator[bytes]:
        splitter, chunks = EventSplitter(), self._reply.chunks()
        try:
            while True:
                async with asyncio.timeout(idle_s):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    break
                if whole := b"".join(splitter.feed(chunk)):
                    yield whole
            yield splitter.take_rest()
        except TimeoutError:
            yield error_event("the stream stopped: nothing came within the policy's idle_s", "timeout_idle")
        except (CutOff, EventTooLarge) as broken:
            yield error_event(f"the stream stopped: {broken}", "cut_off")
