"""`Shadows`: calls that have been answered, sent once more to a target on trial, whose answer nobody gets.

A shadow is a call like any other, to one target, for a client that is nobody: its deadlines and its attempt are the
same, and the fleet learns from it. It costs calls nothing: it begins after the answer's last byte, borrows only places
that are free, pays from a budget of its own, and is booked apart, beside the exchange and not in it.
In: a call, its decision, its exchange. Out: a shadow record in the spool. What goes wrong here, no client hears of.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace

from gateway.callers.quotas import Grant
from gateway.dispatch.booking import Book
from gateway.dispatch.cache import AnswerCache
from gateway.dispatch.call import Call
from gateway.dispatch.gates import Gate, Loan
from gateway.dispatch.search import Targets
from gateway.dispatch.serve import Service
from gateway.dispatch.shadow_budget import ShadowBudget
from gateway.dispatch.tally import Tally
from gateway.ledger.records import SHADOW, Attempt, Exchange
from router.decision import Candidate, Decision
from router.eligibility import inability, unwell
from router.fleet import Fleet
from router.outcome import Outcome
from router.query import Query

log = logging.getLogger(__name__)
MAX_RUNNING = 8
CALLER = "(shadow)"  # so that an engine's queue gives no caller's turn away


class Shadows:
    """One worker's. `begin` for each call whose decision names a shadow, `aclose` before the spool is closed."""

    def __init__(self, targets: Targets, book: Book, budget: ShadowBudget) -> None:
        self._targets, self._book, self._budget = targets, book, budget
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, call: Call, decision: Decision, usd_per_day: float | None, exchange: Exchange) -> None:
        """Starts a shadow of this call, which is over, unless something speaks against it. Nobody waits for it."""
        name = decision.shadow
        if name is None or not self._may_begin(name, call, exchange):
            return
        if not self._budget.allows(decision.shape, usd_per_day):
            return
        shadow = self._run(name, call, decision, exchange)
        task = asyncio.create_task(shadow)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def aclose(self) -> None:
        """Ends those that run; what they cost until now is booked."""
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _may_begin(self, name: str, call: Call, exchange: Exchange) -> bool:
        """Only what a target has answered is repeated, without an effect anywhere, by another target that is well."""
        answered, target = exchange.answered, self._targets.catalog.targets.get(name)
        if answered is None or answered.result != "ok" or answered.target == name or target is None:
            return False
        if not call.is_repeatable or call.keeps_state or call.query.target is not None:
            return False
        health, now = self._targets.fleet.health(name), time.monotonic()
        if health.breaker.state(now) != "admitting":  # its probes are for calls
            return False
        if inability(call.query, target, health) is not None or unwell(health, now) is not None:
            return False
        gate = self._gate(name)
        return len(self._running) < MAX_RUNNING and (gate is None or gate.inside < gate.max_parallel)

    async def _run(self, name: str, call: Call, decision: Decision, exchange: Exchange) -> None:
        call = replace(call, query=replace(call.query, caller=CALLER))
        tally = _Tally(call.query, decision, exchange, self._book, self._targets.fleet)
        gate, task = self._gate(name), asyncio.current_task()
        assert task is not None
        service = Service(
            replace(self._targets, gates={name: Loan(gate, task.cancel)} if gate is not None else {}),
            AnswerCache(),
            call,
            _for_one(name, decision),
            _Nobody(),
            tally,
            time.monotonic() + decision.timeouts.total_s,
        )
        try:
            await service.run(retry_budget=0.0)
        except asyncio.CancelledError:
            tally.leave(499, "shadow_ended")
            raise
        except Exception:
            log.exception("a shadow failed inside the gateway")
            tally.leave(500, "internal_error")
        finally:
            for attempt in tally.exchange.attempts:
                self._budget.add(decision.shape, attempt)

    def _gate(self, name: str) -> Gate | None:
        gate = self._targets.gates.get(name)
        assert not isinstance(gate, Loan)
        return gate


def _for_one(name: str, decision: Decision) -> Decision:
    """The same decision with this target alone, to be tried once."""
    return replace(
        decision,
        candidates=(Candidate(name, SHADOW, None, None),),
        max_retries=0,
        hedge_after_s=None,
        keepalive_s=None,
        cache_ttl_s=None,
    )


class _Tally(Tally):
    """Keeps a shadow's books: no caller pays for it, and its attempt is no part of the exchange beside it."""

    def __init__(self, query: Query, decision: Decision, beside: Exchange, book: Book, fleet: Fleet) -> None:
        super().__init__(query, Grant(None), decision.policy_hash, time.monotonic(), book, fleet)
        self.decided(decision)
        self.exchange.trace = beside.trace
        self._beside, self._ordinal = beside, len(beside.attempts)

    def begin(self, target: str, model: str) -> Attempt:
        """The target knows the request by the key of the attempt's row."""
        attempt = super().begin(target, model)
        attempt.id = self.exchange.id
        return attempt

    def _outcome(self, attempt: Attempt, retry_after_s: float | None) -> Outcome:
        outcome = super()._outcome(attempt, retry_after_s)
        outcome.is_shadow = True
        return outcome

    def close(self, status: int, error_code: str | None = None) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        for attempt in self.exchange.attempts:
            self._book.close_shadow(attempt, self._beside, self._ordinal)


class _Nobody:
    """The client of a shadow: takes everything at once."""

    is_started = False

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        self.is_started = True

    async def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.is_started = True

    async def write(self, data: bytes) -> None:
        pass

    async def end(self, data: bytes = b"") -> None:
        pass
