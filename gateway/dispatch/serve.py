"""The life of a call, top to bottom: open → decide → walk the candidates → commit → relay → close → shadow.

Before the first content token a failure is an outcome and the next candidate is tried; with it the call is
committed to its target. The record is in the spool before the last byte leaves. A departing client cancels this
coroutine, in any phase: the upstream is closed at once and the record says so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from math import ceil
from random import random
from typing import Literal

import orjson

from gateway.callers.quotas import Grant
from gateway.dispatch.attempt import Body, Failure, Opened
from gateway.dispatch.booking import Book
from gateway.dispatch.cache import Answer, AnswerCache
from gateway.dispatch.call import Call, Client, ErrorForm
from gateway.dispatch.deadline import Watch
from gateway.dispatch.last_targets import LastTargets
from gateway.dispatch.relay import CONTENT_TYPE, HEADERS, Relay
from gateway.dispatch.search import Search, Targets
from gateway.dispatch.tally import Tally
from gateway.dispatch.threads import Threads
from gateway.dispatch.tries import Try
from gateway.dispatch.walk import error_of, own_words
from gateway.ledger.records import Exchange
from gateway.telemetry.trace_context import trace_of
from gateway.wire.errors import GatewayError, NotFound, UpstreamTimeout
from router.decide import UnknownModel, decide
from router.decision import Decision
from router.policy import Policy

log = logging.getLogger(__name__)
KEEP_ALIVE = b": keep-alive\n\n"
Shadowing = Callable[[Call, Decision, float | None, Exchange], None]  # the float: dollars a day it may spend


@dataclass(slots=True)
class Dispatcher:
    """What all calls of a worker share. `shadow` takes over what is to be sent once more, and returns at once."""

    targets: Targets
    policy: Callable[[], Policy]
    book: Book
    shadow: Shadowing
    threads: Threads
    cache: AnswerCache = field(default_factory=AnswerCache)
    last_targets: LastTargets = field(default_factory=LastTargets)
    sampled_traces: float | None = None  # the share to keep of those that begin here; None = telemetry is off

    async def serve(self, call: Call, grant: Grant, client: Client, arrived: float) -> None:
        """Answers one call that arrived at this moment of the monotonic clock, and settles its grant."""
        try:
            self.book.check_room()
        except GatewayError as error:
            grant.settle(0, 0)
            self.book.metrics.refused(error.code)
            await send_error(client, error, call.errors)
            return
        policy, task_id = self.policy(), call.query.task_id
        if task_id is not None:
            call.query.last_target = self.last_targets.find(call.query.caller, task_id, arrived)
        tally = Tally(call.query, grant, policy.hash, arrived, self.book, self.targets.fleet)
        tally.hears(call, self.threads)
        if self.sampled_traces is not None:
            tally.exchange.trace = trace_of(call.query.headers, tally.exchange.id, self.sampled_traces)
        try:
            decision = decide(
                call.query, self.targets.catalog, policy, self.targets.fleet, time.monotonic(), random()
            )
        except UnknownModel:
            await _refuse(unknown_model(call.query.model), call, client, tally)
            return
        tally.decided(decision, policy.for_shape(decision.shape))
        end = arrived + decision.timeouts.total_s
        service = Service(self.targets, self.cache, call, decision, client, tally, end)
        self.book.metrics.num_in_flight += 1
        try:
            await service.run(policy.retries.budget)
        except asyncio.CancelledError:
            tally.leave(200 if client.is_started else 499, "client_gone")
            raise
        except Exception:
            tally.leave(200 if client.is_started else 500, "internal_error")
            name = tally.exchange.request_id
            log.exception("the call %s failed inside the gateway", name)
            ours = GatewayError(f"the gateway failed on this call; its log says why, under {name}")
            await send_error(client, ours, call.errors, tally.headers())
            return
        finally:
            self.book.metrics.num_in_flight -= 1
            if task_id is not None and (answered := tally.exchange.answered):
                caller = call.query.caller
                self.last_targets.note(caller, task_id, answered.target, time.monotonic())
                self.last_targets.add(caller, task_id, decision.shape, tally.exchange.attempts)
        if decision.shadow is not None and (trial := policy.for_shape(decision.shape).shadow):
            self.shadow(call, decision, trial.usd_per_day, tally.exchange)


@dataclass(slots=True)
class Service:
    """One call, decided and to be answered. `total` is its end on the monotonic clock."""

    targets: Targets
    cache: AnswerCache
    call: Call
    decision: Decision
    client: Client
    tally: Tally
    total: float

    async def run(self, retry_budget: float) -> None:
        """From the cache, or from the targets."""
        fingerprint = self._fingerprint()
        if fingerprint is None:
            await self._ask_targets(retry_budget)
            return
        cache, now = self.cache, time.monotonic()
        if found := cache.find(fingerprint, now):
            await self._repeat(found, "hit")
        elif found := await self._wait(fingerprint):
            await self._repeat(found, "joined")
        elif time.monotonic() >= self.total:
            await self._run_out()
        elif not cache.begin(fingerprint):  # several waited for one that came to nothing
            await self._ask_targets(retry_budget)
        else:
            answer: Answer | None = None
            try:
                answer = await self._ask_targets(retry_budget, self.decision.cache_ttl_s)
            finally:
                cache.end(fingerprint, answer)

    async def _wait(self, fingerprint: bytes) -> Answer | None:
        """For an equal call's answer, which may have more time than this one."""
        try:
            with Watch(self.total):
                return await self.cache.wait(fingerprint)
        except TimeoutError:
            return None

    async def _run_out(self) -> None:
        self.tally.exchange.timed_out = "total"
        error = UpstreamTimeout(
            "an equal call's answer did not come in this one's time", code="timeout_total"
        )
        await _refuse(error, self.call, self.client, self.tally)

    def _fingerprint(self) -> bytes | None:
        """Equal only for equal calls of one caller under one policy; None where nothing may be kept."""
        said = None if self.decision.cache_ttl_s is None else self.call.fingerprint()
        if said is None:
            return None
        parts = (self.call.query.caller, self.decision.policy_hash, self.decision.shape)
        return sha256("\0".join(parts).encode() + said).digest()

    async def _repeat(self, answer: Answer, how: Literal["hit", "joined"]) -> None:
        exchange = self.tally.exchange
        exchange.cache, exchange.saved_nusd = how, answer.cost_nusd
        exchange.finish_reason, self.tally.answer = answer.finish_reason, [answer.body]
        headers = {"Content-Type": answer.content_type, **self.tally.headers()}
        self.tally.close(200)
        await self.client.respond(200, headers, answer.body)

    async def _ask_targets(self, retry_budget: float, keep_s: float | None = None) -> Answer | None:
        """The client gets the first answer, or hears of the first failure.

        Gives the complete answer where it is to be kept for `keep_s`.
        """
        search = Search(self.targets, self.call, self.decision, self.tally, self.total)
        keeping_alive = self._keep_alive()
        found: Try | GatewayError | None = None
        try:
            found = await search.run(retry_budget)
        finally:
            if keeping_alive is not None:
                keeping_alive.cancel()
            search.end(found if isinstance(found, Try) else None)
        if isinstance(found, GatewayError):
            await _refuse(found, self.call, self.client, self.tally)
            return None
        if isinstance(found.answer, Failure):
            await self._give_up(found, found.answer)
            return None
        try:
            return await self._deliver(found, keep_s)
        finally:
            found.release()

    def _keep_alive(self) -> asyncio.Task[None] | None:
        every_s = self.decision.keepalive_s
        if every_s is None or not self.call.query.stream:
            return None
        return asyncio.create_task(_keep_alive(self.client, self.tally, every_s))

    async def _deliver(self, answer: Try, keep_s: float | None) -> Answer | None:
        if isinstance(answer.answer, Body):
            return await self._answer(answer, answer.answer, keep_s)
        assert isinstance(answer.answer, Opened)
        self.tally.answers(answer.attempt, 200, answer.answer.upstream_request_id)
        kept: list[bytes] | None = None if keep_s is None and not self.tally.reads_answer else []
        relay = Relay(
            self.call,
            answer.form,
            answer.answer,
            self.client,
            self.tally,
            answer.attempt,
            self.decision.timeouts.idle_s,
            self.total,
            kept,
        )
        if not await relay.run() or kept is None or keep_s is None:
            return None
        return self._kept(b"".join(kept), CONTENT_TYPE, answer, keep_s)

    async def _answer(self, one: Try, body: Body, keep_s: float | None) -> Answer | None:
        """A whole body, as the upstream wrote it or translated."""
        wire = one.form.wire
        self.tally.answers(one.attempt, 200, body.upstream_request_id)
        self.tally.learn(one.attempt, body.value, wire.usage_of(body.value))
        self.tally.learn_engine_ttft(one.attempt)
        self.tally.exchange.finish_reason = wire.finish_reason_of(body.value)
        raw = body.raw if one.translated is None else orjson.dumps(one.translated)
        self.tally.answer = [raw]
        self.tally.end(one.attempt, "ok")
        self.tally.close(200)
        await self.client.respond(200, self.tally.headers(), raw)
        if keep_s is None:
            return None
        return self._kept(raw, "application/json", one, keep_s)

    def _kept(self, body: bytes, content_type: str, one: Try, keep_s: float) -> Answer:
        until, reason = time.monotonic() + keep_s, self.tally.exchange.finish_reason
        return Answer(body, content_type, one.attempt.cost_nusd, until, reason)

    async def _give_up(self, failed: Try, failure: Failure) -> None:
        error = error_of(failed.target.name, failure)
        raw = own_words(failure) if failed.form.translation is None else None
        self.tally.close(200 if self.client.is_started else error.status, error.code)
        if self.client.is_started or raw is None:
            await send_error(self.client, error, self.call.errors, self.tally.headers())
        else:
            headers = self.tally.headers() | _retry_after(error.retry_after_s)
            await self.client.respond(error.status, headers, raw)


async def _keep_alive(client: Client, tally: Tally, every_s: float) -> None:
    """Comments into a stream that has no token yet, so that proxies in front do not give it up."""
    while True:
        await asyncio.sleep(every_s)
        if not client.is_started:
            await client.start(200, {**HEADERS, "X-Request-Id": tally.exchange.request_id})
        await client.write(KEEP_ALIVE)


async def send_error(
    client: Client, error: GatewayError, form: ErrorForm, headers: Mapping[str, str] | None = None
) -> None:
    """An error of the gateway's own: a response, or the end of a stream that has begun."""
    if client.is_started:
        await client.end(form.event(error))
    else:
        head = {**(headers or {}), **error.headers, **_retry_after(error.retry_after_s)}
        await client.respond(error.status, head, form.body(error))


def _retry_after(seconds: float | None) -> dict[str, str]:
    return {} if seconds is None else {"Retry-After": str(max(1, ceil(seconds)))}


async def _refuse(error: GatewayError, call: Call, client: Client, tally: Tally) -> None:
    tally.close(200 if client.is_started else error.status, error.code)
    await send_error(client, error, call.errors, tally.headers())


def unknown_model(model: str) -> GatewayError:
    return NotFound(
        f"no target, shape or mapped name is called '{model}'; GET /v1/models lists them",
        code="model_not_found",
        param="model",
    )
