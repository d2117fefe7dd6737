"""Our gateway's routing: the router's own code, fed with virtual time.

`decide`, `Fleet`, the breaker, the retry and hedge budgets and the order of tries are those of the product; only the
way from try to try, which `gateway.dispatch.search` walks on the event loop's clock, is written here once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from gateway.bench.routing.calls import Call
from gateway.bench.routing.scenarios import Place, Scenario
from gateway.bench.routing.strategies.base import Choice, Route
from gateway.dispatch.walk import order, pause_s
from router.catalog import Catalog, Target
from router.decide import decide
from router.decision import Decision
from router.fleet import EngineState, Fleet
from router.outcome import Outcome
from router.policy import Policy, ShapePolicy
from router.query import Query
from router.waits import Began


class Ours:
    """`policy` None: the built-in one, with the scenario's objective and deadlines."""

    name = "sparkgate"

    def __init__(self, scenario: Scenario, chance: Random, policy: Policy | None = None) -> None:
        rules = ShapePolicy(objective=scenario.objective, timeouts=scenario.timeouts)
        self._policy = policy or Policy("simulated", {}, rules)
        self._fleet = Fleet(self._policy.half_life_s)
        self._catalog = Catalog({})
        self._total_s = scenario.timeouts.total_s
        self._chance = chance
        self._running: dict[tuple[int, str], Began | None] = {}

    def join(self, place: Place, now: float) -> None:
        target = Target(
            place.name,
            "engine" if place.accepted_length else "openai",
            place.name,
            input_usd_per_mtok=place.input_usd_per_mtok,
            output_usd_per_mtok=place.output_usd_per_mtok,
        )
        self._catalog = Catalog({**self._catalog.targets, place.name: target})

    def route(self, call: Call, now: float) -> Route:
        ends = now + self._total_s
        decision = decide(_query(call), self._catalog, self._policy, self._fleet, now, self._chance.random())
        plan = order(decision)
        others: Iterator[tuple[str, int]] = plan
        asked_s: float | None = None
        for name, repeat in plan:
            after_s = self._pause_s(name, repeat, asked_s, now, ends, is_first=others is plan)
            if after_s is None:
                return
            is_explored = decision.explored and others is plan
            now, outcome = yield self._choice(decision, name, after_s, is_explored, others)
            others, asked_s = iter(()), outcome.retry_after_s
            if not outcome.is_retryable:
                return

    def _pause_s(
        self, target: str, repeat: int, asked_s: float | None, now: float, ends: float, is_first: bool
    ) -> float | None:
        """Before a try; None where there may be none. A further one is paid for, a repeat twice, and waited for."""
        retries, of_all, budget = (
            self._fleet.health(target).retries,
            self._fleet.retries,
            self._policy.retries.budget,
        )
        if repeat == 0:
            retries.deposit(budget, now)
            if is_first:
                of_all.deposit(budget, now)
            return 0.0 if is_first or of_all.withdraw(now) else None
        after_s = pause_s(repeat, asked_s, self._chance.random())
        if after_s is None or now + after_s >= ends or not (retries.withdraw(now) and of_all.withdraw(now)):
            return None
        return after_s

    def _choice(
        self,
        decision: Decision,
        target: str,
        after_s: float,
        is_explored: bool,
        others: Iterator[tuple[str, int]],
    ) -> Choice:
        if decision.hedge_after_s is None or len(decision.candidates) < 2:
            return Choice(target, after_s, is_explored)
        budget = self._fleet.hedge_budget(decision.shape)
        budget.deposit(decision.hedge_budget)

        def hedge() -> str | None:
            name, repeat = next(others, ("", 1))
            return None if repeat or not budget.withdraw() else name

        return Choice(target, after_s, is_explored, decision.hedge_after_s, hedge)

    def begin(self, call: Call, target: str, now: float) -> None:
        self._running[call.number, target] = self._fleet.start(target, call.kind.shape, now)

    def first_token(self, call: Call, target: str, ttft_s: float, now: float) -> None:
        began = self._running[call.number, target]
        assert began is not None
        self._fleet.first_token(target, call.kind.shape, ttft_s, now, began)

    def observe(self, call: Call, outcome: Outcome, now: float) -> None:
        self._fleet.observe(outcome, now, self._running.pop((call.number, outcome.target)))

    def look(self, target: str, state: EngineState, now: float) -> None:
        self._fleet.set_engine(target, state, now)


def _query(call: Call) -> Query:
    return Query(
        "/v1/chat/completions",
        "auto",
        stream=True,
        declared_shape=call.kind.shape,
        input_tokens=call.kind.input_tokens,
    )
