"""The life of a call, top to bottom: open → decide → walk the candidates → commit → relay → close.

Before the first content token a failure is an outcome and the next candidate is tried; with it the call is
committed to its target. The record is in the spool before the last byte leaves. A departing client cancels this
coroutine, in any phase: the upstream is closed at once and the record says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import random
from urllib.parse import quote

import orjson

from gateway.dispatch.attempt import Body, Deadlines, Failure, Opened, fetch, open_stream
from gateway.dispatch.booking import Book
from gateway.dispatch.call import Call, Client
from gateway.dispatch.relay import relay
from gateway.dispatch.tally import Tally
from gateway.dispatch.walk import order, pause_s, verdict
from gateway.upstreams.base import Upstream, UpstreamCall
from gateway.wire.chat import finish_reason_of
from gateway.wire.errors import GatewayError, NoTarget, NotFound
from router.catalog import Catalog
from router.decide import UnknownModel, decide
from router.decision import Decision
from router.fleet import Fleet
from router.policy import Policy

NO_TARGET_RETRY_S = 2.0


@dataclass(slots=True)
class Dispatcher:
    """What all calls of a worker share."""

    catalog: Catalog
    upstreams: Mapping[str, Upstream]
    fleet: Fleet
    policy: Callable[[], Policy]
    book: Book

    async def serve(self, call: Call, caller: str, client: Client, arrived: float) -> None:
        """Answers one call that arrived at this moment of the monotonic clock. Raises `LedgerFull`."""
        self.book.check_room()
        policy = self.policy()
        tally = Tally(call.query, caller, policy.hash, arrived, self.book, self.fleet)
        try:
            decision = decide(call.query, self.catalog, policy, self.fleet, time.monotonic(), random())
        except UnknownModel:
            await _refuse(_unknown_model(call.query.model), client, tally)
            return
        tally.decided(decision)
        walk = _Walk(self, call, decision, client, tally, arrived + decision.timeouts.total_s)
        with self.book.metrics.in_flight.track_inprogress():
            try:
                await walk.run(policy.retries.budget)
            except asyncio.CancelledError:
                tally.leave(200 if client.is_started else 499, "client_gone")
                raise
            except Exception:
                tally.leave(200 if client.is_started else 500, "internal_error")
                raise


@dataclass(slots=True)
class _Walk:
    """One call on its way along a decision's candidates. `total` is its end on the monotonic clock."""

    shared: Dispatcher
    call: Call
    decision: Decision
    client: Client
    tally: Tally
    total: float

    async def run(self, retry_budget: float) -> None:
        """Tries targets until one has answered or none is left; the client hears of the first failure."""
        first: tuple[str, Failure] | None = None
        last: Failure | None = None
        for target, repeat in order(self.decision):
            if not await self._may_try(target, repeat, retry_budget, last):
                break
            last = await self._try(target)
            if last is None:
                return
            first = first or (target, last)
            if not self.tally.fail(last).is_retryable and last.code != "context_length_exceeded":
                break
        if first is None:
            await _refuse(_no_target(self.decision), self.client, self.tally)
        else:
            await self._give_up(*first)

    async def _may_try(self, target: str, repeat: int, retry_budget: float, last: Failure | None) -> bool:
        """A repeat is paid for and waited for; another target is neither."""
        retries = self.shared.fleet.health(target).retries
        now = time.monotonic()
        if repeat == 0:
            retries.deposit(retry_budget, now)
            return now < self.total
        pause = pause_s(repeat, last.retry_after_s if last else None, random())
        if now + pause >= self.total or not retries.withdraw(now):
            return False
        await asyncio.sleep(pause)
        return True

    async def _try(self, name: str) -> Failure | None:
        """One attempt; None = the client has its answer, whole or broken off."""
        target = self.shared.catalog.targets[name]
        body = self.call.body_for(target)
        headers = {**self.call.pass_headers, "X-Request-Id": self.tally.exchange.request_id}
        if target.kind == "engine":  # whose queue is fair over callers, and which counts by shape
            headers["X-Sparkgate-Caller"] = quote(self.tally.exchange.caller)
            headers["X-Sparkgate-Shape"] = quote(self.decision.shape)
        request = UpstreamCall(self.call.path, body, self.call.query.stream, headers)
        started = self.tally.begin(name, str(body.get("model") or target.model))
        timeouts = self.decision.timeouts
        deadlines = Deadlines(started + timeouts.first_token_s, self.total)
        upstream = self.shared.upstreams[name]
        if self.call.query.stream:
            opened = await open_stream(upstream, request, deadlines)
            if isinstance(opened, Opened):
                wants_usage, idle_s = self.call.wants_usage, timeouts.idle_s
                await relay(
                    opened, self.client, self.tally, wants_usage=wants_usage, idle_s=idle_s, total=self.total
                )
                return None
            return opened
        answer = await fetch(upstream, request, deadlines)
        if isinstance(answer, Body):
            await self._answer(answer)
            return None
        return answer

    async def _answer(self, body: Body) -> None:
        """A whole body, as the upstream wrote it."""
        attempt = self.tally.attempt
        attempt.http_status, attempt.upstream_request_id = 200, body.upstream_request_id
        self.tally.learn(body.value)
        self.tally.learn_engine_ttft()
        self.tally.exchange.finish_reason = finish_reason_of(body.value)
        self.tally.end("ok")
        self.tally.close(200)
        await self.client.respond(200, self.tally.headers(), body.raw)

    async def _give_up(self, target: str, failure: Failure) -> None:
        status, raw, code = verdict(target, failure)
        self.tally.close(status, code)
        await self.client.respond(status, self.tally.headers() | _retry_after(failure.retry_after_s), raw)


async def send_error(client: Client, error: GatewayError, headers: Mapping[str, str] | None = None) -> None:
    """An error of the gateway's own, before anything else was sent."""
    head = {**(headers or {}), **_retry_after(error.retry_after_s)}
    await client.respond(error.status, head, orjson.dumps(error.value()))


def _retry_after(seconds: float | None) -> dict[str, str]:
    return {} if seconds is None else {"Retry-After": str(max(1, round(seconds)))}


async def _refuse(error: GatewayError, client: Client, tally: Tally) -> None:
    tally.close(error.status, error.code)
    await send_error(client, error, tally.headers())


def _unknown_model(model: str) -> GatewayError:
    return NotFound(
        f"no target, shape or mapped name is called '{model}'; GET /v1/models lists them",
        code="model_not_found",
        param="model",
    )


def _no_target(decision: Decision) -> GatewayError:
    refused = "; ".join(f"{rejection.target}: {rejection.reason}" for rejection in decision.rejections)
    return NoTarget(
        f"no target can serve this call ({refused or 'none is configured'})", retry_after_s=NO_TARGET_RETRY_S
    )
