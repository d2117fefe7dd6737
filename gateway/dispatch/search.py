"""From a decision's candidates to the try that answers: each target in its turn, a second one beside a slow first.

Here is decided what may follow a failure (`walk` has the rules), nothing is said to the client. In: a call and its
decision. Out: a `Try` that has an answer, else the first that failed, else why no target could be asked at all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from random import random

from gateway.dispatch.attempt import Deadlines, Failure
from gateway.dispatch.call import Call
from gateway.dispatch.gates import Gate, Loan
from gateway.dispatch.tally import Tally
from gateway.dispatch.tries import Try
from gateway.dispatch.walk import ELSEWHERE, TOO_LONG, order, pause_s
from gateway.upstreams.base import Upstream
from gateway.wire.errors import BadRequest, GatewayError, NoTarget
from router.catalog import Catalog
from router.decision import Decision
from router.fleet import Fleet


@dataclass(slots=True)
class Targets:
    """What there is to ask: by target name its upstream, and its gate if it takes a limited number of calls."""

    catalog: Catalog
    upstreams: Mapping[str, Upstream]
    fleet: Fleet
    gates: Mapping[str, Gate | Loan] = field(default_factory=dict)


@dataclass(slots=True)
class Search:
    """One call on its way along a decision's candidates. `total` is its end on the monotonic clock.

    Whatever `run` gives or raises, `end` must follow.
    """

    targets: Targets
    call: Call
    decision: Decision
    tally: Tally
    total: float
    _tries: list[Try] = field(default_factory=list)
    _unsayable: BadRequest | None = None  # what a target could not be asked for

    async def run(self, retry_budget: float) -> Try | GatewayError:
        """Tries targets until one has answered or none is left."""
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
                barred |= self._no_better_than(last, last.answer)
            elif not self._may_go_on(last):
                break
        return first or self._unsayable or _no_target(self.decision)

    def end(self, answer: Try | None) -> None:
        """Closes what is not the answer: tries cancelled, failed, or slower than another."""
        for each in self._tries:
            if each is not answer:
                each.drop()

    async def _may_try(self, target: str, repeat: int, retry_budget: float, last: Try | None) -> bool:
        """All but the first try are paid for by all calls' budget; a repeat by the target's too, and is waited for."""
        fleet = self.targets.fleet
        retries, now = fleet.health(target).retries, time.monotonic()
        failure = last.answer if last and isinstance(last.answer, Failure) else None
        if repeat == 0:
            retries.deposit(retry_budget, now)
            if now >= self.total:
                return False
            if last is None:
                fleet.retries.deposit(retry_budget, now)
                return True
            return _was_not_sent(failure) or fleet.retries.withdraw(now)
        if failure and failure.should_retry is False:
            return False
        pause = pause_s(repeat, failure.retry_after_s if failure else None, random())
        if pause is None or now + pause >= self.total or not retries.withdraw(now):
            return False
        if not _was_not_sent(failure) and not fleet.retries.withdraw(now):
            return False
        await asyncio.sleep(pause)
        return True

    def _may_go_on(self, failed: Try) -> bool:
        """May another attempt follow this one?"""
        failure = failed.answer
        assert isinstance(failure, Failure)
        assert failed.outcome is not None
        if failed.attempt.is_sent and not self.call.is_repeatable:
            return False
        return failed.outcome.is_retryable or failure.should_retry is True

    def _no_better_than(self, failed: Try, failure: Failure) -> set[str]:
        """The target itself, and where its context was too short those that are known to have no longer one."""
        targets, window = self.targets.catalog.targets, failed.target.context_tokens
        barred = {failed.target.name}
        if failure.code in TOO_LONG and window is not None:
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
        self.targets.fleet.hedge_budget(self.decision.shape).deposit(self.decision.hedge_budget)
        return await self._race(one, after_s, others)

    def _begin(self, name: str) -> Try | None:
        target = self.targets.catalog.targets[name]
        try:
            form = self.call.form_for(target)
        except BadRequest as error:
            self._unsayable = self._unsayable or error
            return None
        started = Try(target, form, self.tally.begin(name, target.model), self.targets.gates.get(name))
        self._tries.append(started)
        return started

    async def _run(self, one: Try) -> None:
        deadlines = Deadlines(one.attempt.begun + self.decision.timeouts.first_token_s, self.total)
        upstream = self.targets.upstreams[one.target.name]
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
                        self._lose(racers.values(), latest)
                        return latest
            return latest
        finally:
            for task in racers:
                task.cancel()
            await asyncio.gather(*racers, return_exceptions=True)

    def _hedge(self, others: Iterator[tuple[str, int]]) -> Try | None:
        """The next target, if hedges are left in the budget."""
        budget = self.targets.fleet.hedge_budget(self.decision.shape)
        for name, repeat in others:
            if repeat or not budget.withdraw():
                return None
            if second := self._begin(name):
                return second
        return None

    def _lose(self, racers: Iterable[Try], winner: Try) -> None:
        for each in racers:
            if each is not winner and each.outcome is None:
                self.tally.end(each.attempt, "hedge_lost")


def _was_not_sent(failure: Failure | None) -> bool:
    """A target that was busy had no load of the call."""
    return failure is not None and failure.result == "busy"


def _no_target(decision: Decision) -> GatewayError:
    refused = "; ".join(f"{rejection.target}: {rejection.reason}" for rejection in decision.rejections)
    error = NoTarget(f"no target can serve this call ({refused or 'none is configured'})")
    error.headers = {"x-should-retry": "false"}  # those that only rest have been called up
    return error
