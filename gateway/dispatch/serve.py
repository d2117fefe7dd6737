"""The life of a call, top to bottom: open → decide → walk the candidates → commit → relay → close.

Before the first content token a failure is an outcome and the next candidate is tried; with it the call is
committed to its target. The record is in the spool before the last byte leaves. A departing client cancels this
coroutine, in any phase: the upstream is closed at once and the record says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from math import ceil
from random import random

import orjson

from gateway.callers.quotas import Grant
from gateway.dispatch.attempt import Body, Deadlines, Failure, Opened
from gateway.dispatch.booking import Book
from gateway.dispatch.cache import Answer, AnswerCache
from gateway.dispatch.call import Call, Client, ErrorForm
from gateway.dispatch.gates import Gate
from gateway.dispatch.relay import CONTENT_TYPE, HEADERS, Relay
from gateway.dispatch.tally import Tally
from gateway.dispatch.tries import Try
from gateway.dispatch.walk import ELSEWHERE, order, own_words, pause_s, verdict
from gateway.upstreams.base import Upstream
from gateway.wire.errors import BadRequest, GatewayError, NoTarget, NotFound
from router.catalog import Catalog
from router.decide import UnknownModel, decide
from router.decision import Decision
from router.fleet import Fleet
from router.policy import Policy

NO_TARGET_RETRY_S = 2.0
KEEP_ALIVE = b": keep-alive\n\n"


@dataclass(slots=True)
class Dispatcher:
    """What all calls of a worker share."""

    catalog: Catalog
    upstreams: Mapping[str, Upstream]
    fleet: Fleet
    policy: Callable[[], Policy]
    book: Book
    gates: Mapping[str, Gate] = field(default_factory=dict)  # of targets with a limit of parallel calls
    cache: AnswerCache = field(default_factory=AnswerCache)

    async def serve(self, call: Call, grant: Grant, client: Client, arrived: float) -> None:
        """Answers one call that arrived at this moment of the monotonic clock, and settles its grant."""
        try:
            self.book.check_room()
        except GatewayError as error:
            grant.settle(0, 0)
            await send_error(client, error, call.errors)
            return
        policy = self.policy()
        tally = Tally(call.query, grant, policy.hash, arrived, self.book, self.fleet)
        try:
            decision = decide(call.query, self.catalog, policy, self.fleet, time.monotonic(), random())
        except UnknownModel:
            await _refuse(_unknown_model(call.query.model), call, client, tally)
            return
        tally.decided(decision)
        walk = _Walk(self, call, decision, client, tally, arrived + decision.timeouts.total_s)
        self.book.metrics.num_in_flight += 1
        try:
            await walk.run(policy.retries.budget)
        except asyncio.CancelledError:
            tally.leave(200 if client.is_started else 499, "client_gone")
            raise
        except Exception:
            tally.leave(200 if client.is_started else 500, "internal_error")
            raise
        finally:
            self.book.metrics.num_in_flight -= 1


@dataclass(slots=True)
class _Walk:
    """One call on its way along a decision's candidates. `total` is its end on the monotonic clock."""

    shared: Dispatcher
    call: Call
    decision: Decision
    client: Client
    tally: Tally
    total: float
    _tries: list[Try] = field(default_factory=list)
    _unsayable: BadRequest | None = None  # what a target could not be asked for

    async def run(self, retry_budget: float) -> None:
        """From the cache, or from the targets."""
        fingerprint = self._fingerprint()
        if fingerprint is None:
            await self._ask_targets(retry_budget)
            return
        cache, now = self.shared.cache, time.monotonic()
        if found := cache.find(fingerprint, now):
            await self._repeat(found, "hit")
        elif found := await cache.wait(fingerprint):
            await self._repeat(found, "joined")
        elif not cache.begin(fingerprint):  # several waited for one that came to nothing
            await self._ask_targets(retry_budget)
        else:
            answer: Answer | None = None
            try:
                answer = await self._ask_targets(retry_budget, self.decision.cache_ttl_s)
            finally:
                cache.end(fingerprint, answer)

    def _fingerprint(self) -> bytes | None:
        """Equal only for equal calls of one caller under one policy; None where nothing may be kept."""
        if self.decision.cache_ttl_s is None or self.call.fingerprint is None:
            return None
        parts = (self.call.query.caller, self.decision.policy_hash, self.decision.shape)
        return sha256("\0".join(parts).encode() + self.call.fingerprint).digest()

    async def _repeat(self, answer: Answer, how: str) -> None:
        exchange = self.tally.exchange
        exchange.cache, exchange.saved_nusd = "hit" if how == "hit" else "joined", answer.cost_nusd
        headers = {"Content-Type": answer.content_type, **self.tally.headers()}
        self.tally.close(200)
        await self.client.respond(200, headers, answer.body)

    async def _ask_targets(self, retry_budget: float, keep_s: float | None = None) -> Answer | None:
        """Tries targets until one has answered or none is left; the client hears of the first failure.

        Gives the complete answer where it is to be kept for `keep_s`.
        """
        keeping_alive = self._keep_alive()
        answer: Try | None = None
        try:
            answer = await self._first_answer(retry_budget)
        finally:
            if keeping_alive is not None:
                keeping_alive.cancel()
            for each in self._tries:
                if each is not answer:  # cancelled, failed, or slower than another
                    each.drop()
        if answer is None:
            return None
        try:
            return await self._deliver(answer, keep_s)
        finally:
            answer.release()

    async def _first_answer(self, retry_budget: float) -> Try | None:
        first: Try | None = None
        last: Try | None = None
        barred: set[str] = set()
        plan = order(self.decision)
        for name, repeat in plan:
            if name in barred:
                continue
            if not await self._may_try(name, repeat, retry_budget, last):
                break
            last = await self._try(name, plan if first is None else iter(()))
            if last is None:
                continue
            if not isinstance(last.answer, Failure):
                return last
            first = first or last
            if last.answer.code in ELSEWHERE:
                barred |= self._no_better_than(last)
            elif not self._may_go_on(last):
                break
        if first is not None:
            await self._give_up(first)
        else:
            await _refuse(self._unsayable or _no_target(self.decision), self.call, self.client, self.tally)
        return None

    async def _may_try(self, target: str, repeat: int, retry_budget: float, last: Try | None) -> bool:
        """A repeat is paid for and waited for; another target is neither."""
        retries = self.shared.fleet.health(target).retries
        now = time.monotonic()
        if repeat == 0:
            retries.deposit(retry_budget, now)
            return now < self.total
        failure = last.answer if last and isinstance(last.answer, Failure) else None
        if failure and failure.should_retry is False:
            return False
        pause = pause_s(repeat, failure.retry_after_s if failure else None, random())
        if pause is None or now + pause >= self.total or not retries.withdraw(now):
            return False
        await asyncio.sleep(pause)
        return True

    def _may_go_on(self, failed: Try) -> bool:
        """May another attempt follow this one?"""
        failure = failed.answer
        assert isinstance(failure, Failure)
        assert failed.outcome is not None
        if failure.was_sent and not self.call.is_repeatable:
            return False
        return failed.outcome.is_retryable or failure.should_retry is True

    def _no_better_than(self, failed: Try) -> set[str]:
        """The target itself, and where its context was too short those that are known to have no longer one."""
        targets, window = self.shared.catalog.targets, failed.target.context_tokens
        barred = {failed.target.name}
        if window is not None:
            barred |= {
                name for name, each in targets.items() if (each.context_tokens or window + 1) <= window
            }
        return barred

    async def _try(self, name: str, others: Iterator[tuple[str, int]]) -> Try | None:
        """One attempt, or two where the first is slow and the policy hedges; None = cannot be asked of this target."""
        one = self._begin(name)
        if one is None:
            return None
        after_s = self.decision.hedge_after_s
        if after_s is None or not self.call.is_repeatable or len(self.decision.candidates) < 2:
            await self._run(one)
            return one
        self.shared.fleet.hedge_budget(self.decision.shape).deposit(self.decision.hedge_budget)
        return await self._race(one, after_s, others)

    def _begin(self, name: str) -> Try | None:
        target = self.shared.catalog.targets[name]
        try:
            form = self.call.form_for(target)
        except BadRequest as error:
            self._unsayable = self._unsayable or error
            return None
        started = Try(target, form, self.tally.begin(name, target.model), self.shared.gates.get(name))
        self._tries.append(started)
        return started

    async def _run(self, one: Try) -> None:
        deadlines = Deadlines(one.attempt.begun + self.decision.timeouts.first_token_s, self.total)
        upstream = self.shared.upstreams[one.target.name]
        await one.run(upstream, self.call, self.decision.shape, self.tally, deadlines)

    async def _race(self, one: Try, after_s: float, others: Iterator[tuple[str, int]]) -> Try:
        """The first of two tries to answer; when both fail, the one that failed last."""
        racers = {asyncio.create_task(self._run(one)): one}
        try:
            await asyncio.wait(racers, timeout=after_s)
            if one.answer is None and (second := self._hedge(others)):
                racers[asyncio.create_task(self._run(second))] = second
            running = set(racers)
            latest = one
            while running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                    latest = racers[task]
                    if not isinstance(latest.answer, Failure):
                        self._lose(racers, latest)
                        return latest
            return latest
        finally:
            for task in racers:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*racers, return_exceptions=True)

    def _hedge(self, others: Iterator[tuple[str, int]]) -> Try | None:
        """The next target, if hedges are left in the budget."""
        budget = self.shared.fleet.hedge_budget(self.decision.shape)
        for name, repeat in others:
            if repeat or not budget.withdraw():
                return None
            if second := self._begin(name):
                return second
        return None

    def _lose(self, racers: Mapping[asyncio.Task[None], Try], winner: Try) -> None:
        for task, each in racers.items():
            if each is not winner and each.outcome is None:
                task.cancel()
                self.tally.end(each.attempt, "hedge_lost")

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
        kept: list[bytes] | None = None if keep_s is None else []
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
        return Answer(b"".join(kept), CONTENT_TYPE, answer.attempt.cost_nusd, time.monotonic() + keep_s)

    async def _answer(self, one: Try, body: Body, keep_s: float | None) -> Answer | None:
        """A whole body, as the upstream wrote it or translated."""
        wire = one.form.wire
        self.tally.answers(one.attempt, 200, body.upstream_request_id)
        self.tally.learn(one.attempt, body.value, wire.usage_of(body.value))
        self.tally.learn_engine_ttft(one.attempt)
        self.tally.exchange.finish_reason = wire.finish_reason_of(body.value)
        raw = body.raw if one.translated is None else orjson.dumps(one.translated)
        self.tally.end(one.attempt, "ok")
        self.tally.close(200)
        await self.client.respond(200, self.tally.headers(), raw)
        if keep_s is None:
            return None
        return Answer(raw, "application/json", one.attempt.cost_nusd, time.monotonic() + keep_s)

    async def _give_up(self, failed: Try) -> None:
        failure = failed.answer
        assert isinstance(failure, Failure)
        error = verdict(failed.target.name, failure)
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
