"""The simulated world: virtual time, targets with slots and queues, and calls on their way from try to try.

In: a scenario, its calls, a seed, a strategy. Out: a `Record` a call and a `Sent` a try. Pure: no clock, no I/O; two
runs of the same input are equal. What a gateway does around a strategy holds for all alike: deadlines to the first
token and overall, hedges ended by the first token, nothing tried after it.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

from gateway.bench.routing.calls import Call, of_others
from gateway.bench.routing.scenarios import Place, Scenario
from gateway.bench.routing.service import (
    FAILS_AFTER_S,
    PREFILL_TOKENS,
    REFUSED_AFTER_S,
    Conditions,
    first_token_work_s,
    luck_of,
    token_work_s,
)
from gateway.bench.routing.strategies.base import Choice, Elsewhere, Route, Strategy
from gateway.dispatch.engine_watch import INTERVAL_S
from router.fleet import EngineState
from router.outcome import TIMEOUTS, Outcome, Result


@dataclass(slots=True, eq=False)
class Try:
    """One call at one target. Times are points in virtual time; `first_token` None while there is none."""

    exchange: Exchange
    site: Site
    repeat: int
    begun: float
    first_token: float | None = None
    ends: float = 0.0  # once there is a first token: when the last one is due
    http_status: int | None = None  # of a failure
    is_inside: bool = False
    is_over: bool = False


@dataclass(slots=True)
class Site:
    """A target at work: who is inside, who waits."""

    place: Place
    inside: set[Try] = field(default_factory=set)
    waiting: deque[Try] = field(default_factory=deque)

    def crowd(self) -> float:
        """How many times as long a call takes that begins now, for the others inside."""
        return 1 + self.place.crowding * len(self.inside) / self.place.slots

    @property
    def is_full(self) -> bool:
        return len(self.inside) >= self.place.slots

    @property
    def refuses(self) -> bool:
        return self.place.retry_after_s is not None and self.is_full

    def state(self, slowness: float) -> EngineState:
        """What it says when asked."""
        place = self.place
        sizes = [size for size in (1, 2, 4, 8, 16, 32) if size <= place.slots]
        slows = {size: slowness * (1 + place.crowding * (size - 1) / place.slots) for size in sizes}
        return EngineState(
            running=len(self.inside),
            waiting=len(self.waiting),
            max_batch=place.slots,
            steps_per_s={size: 1 / (place.tpot_s * slow) for size, slow in slows.items()},
            accepted_length_by_shape=dict(place.accepted_length),
            prefill_tokens_per_s=PREFILL_TOKENS / (place.ttft_s * slowness * self.crowd()),
        )


@dataclass(frozen=True, slots=True)
class Sent:
    """A try as it was sent: `ordinal` 0 is the call's first."""

    at_s: float
    target: str
    shape: str
    ordinal: int
    is_explored: bool


@dataclass(frozen=True, slots=True)
class Record:
    """What became of a call. `has_timed_out`: a deadline passed in one of its tries."""

    call: Call
    ended_s: float
    is_ok: bool
    has_timed_out: bool
    num_tries: int
    cost_usd: float
    ttft_s: float | None
    target: str | None

    @property
    def completion_s(self) -> float:
        return self.ended_s - self.call.arrived_s


@dataclass(slots=True, eq=False)
class Exchange:
    """A call on its way, as its strategy has it."""

    call: Call
    strategy: Strategy
    route: Route
    open: list[Try] = field(default_factory=list)
    begun: Counter[str] = field(default_factory=Counter)
    cost_usd: float = 0.0
    has_timed_out: bool = False
    first_token: float | None = None

    @property
    def num_tries(self) -> int:
        return self.begun.total()


class World:
    """One run. `sites` is the truth, which only an oracle may read."""

    def __init__(self, scenario: Scenario, calls: Sequence[Call], seed: int) -> None:
        self.scenario, self.conditions = scenario, Conditions(scenario)
        self.sites: dict[str, Site] = {}
        self.records: list[Record] = []
        self.sent: list[Sent] = []
        self.now = 0.0
        self._seed, self._calls = seed, calls
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._num_events = 0

    def run(self, strategy: Strategy) -> None:
        """Until every call has ended."""
        self._strategy = strategy
        for place in self.scenario.places:
            self._at(place.joins_s, partial(self._join, place))
        for call in self._calls:
            self._at(call.arrived_s, partial(self._arrive, call, strategy))
        for crowd in self.scenario.incidents:
            for call in of_others(self.scenario, crowd, self._seed) if crowd.trouble == "crowd" else ():
                self._at(call.arrived_s, partial(self._arrive, call, Elsewhere(crowd.target)))
        while self._events:
            self.now, _, happen = heapq.heappop(self._events)
            happen()
        self.records.sort(key=lambda record: record.call.number)

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        self._num_events += 1
        heapq.heappush(self._events, (when, self._num_events, happen))

    def _join(self, place: Place) -> None:
        self.sites[place.name] = Site(place)
        self._strategy.join(place, self.now)
        if place.accepted_length:
            self._look(place)

    def _look(self, place: Place) -> None:
        """As often as a gateway asks its engines; what they said stands until then."""
        state = self.sites[place.name].state(self.conditions.slowness(place.name, self.now))
        self._strategy.look(place.name, state, self.now)
        if self.now < self.scenario.duration_s:
            self._at(self.now + INTERVAL_S, partial(self._look, place))

    def _arrive(self, call: Call, strategy: Strategy) -> None:
        exchange = Exchange(call, strategy, strategy.route(call, self.now))
        self._follow(exchange, next(exchange.route, None))

    def _follow(self, exchange: Exchange, choice: Choice | None) -> None:
        """The next try, if there is one and the call has time for it."""
        ends = exchange.call.arrived_s + self.scenario.timeouts.total_s
        if choice is None or self.now + choice.after_s >= ends:
            self._finish(exchange, None)
        elif choice.after_s:
            self._at(self.now + choice.after_s, lambda: self._begin(exchange, choice))
        else:
            self._begin(exchange, choice)

    def _begin(self, exchange: Exchange, choice: Choice) -> None:
        one = self._try(exchange, choice.target, choice.is_explored)
        if choice.hedge_after_s is not None and choice.hedge is not None:
            self._at(self.now + choice.hedge_after_s, lambda: self._hedge(exchange, one, choice))

    def _hedge(self, exchange: Exchange, one: Try, choice: Choice) -> None:
        if one.is_over or exchange.first_token is not None or choice.hedge is None:
            return
        if second := choice.hedge():
            self._try(exchange, second, False)

    def _try(self, exchange: Exchange, target: str, is_explored: bool) -> Try:
        call, now = exchange.call, self.now
        one = Try(exchange, self.sites[target], exchange.begun[target], now)
        if exchange.strategy is self._strategy:
            self.sent.append(Sent(now, target, call.kind.shape, exchange.num_tries, is_explored))
        exchange.begun[target] += 1
        exchange.open.append(one)
        exchange.strategy.begin(call, target, now)
        timeouts = self.scenario.timeouts
        first_token, total = now + timeouts.first_token_s, call.arrived_s + timeouts.total_s
        self._at(min(first_token, total), lambda: self._miss_first_token(one, first_token <= total))
        if one.site.refuses:
            self._at(now + REFUSED_AFTER_S, lambda: self._fail(one, 429))
        elif one.site.is_full:
            one.site.waiting.append(one)
        else:
            self._serve(one)
        return one

    def _miss_first_token(self, one: Try, is_first: bool) -> None:
        if not one.is_over and one.first_token is None:
            self._end(one, "timeout_first_token" if is_first else "timeout_total")

    def _serve(self, one: Try) -> None:
        """The target begins to work for the try: what comes of it is drawn, the state of the target at work in it."""
        site, now, call = one.site, self.now, one.exchange.call
        place, truth = site.place, self.conditions
        crowd = site.crowd()
        site.inside.add(one)
        one.is_inside = True
        chance = luck_of(self._seed, call.number, place, one.repeat)
        if chance.hangs < truth.share(place.name, "hang", now):
            return
        if chance.fails < truth.share(place.name, "fail", now):
            self._at(now + FAILS_AFTER_S, lambda: self._fail(one, 500))
            return
        first_s = first_token_work_s(place, call.kind, chance) * crowd
        rest_s = (call.output_tokens - 1) * token_work_s(place, call.kind, chance) * crowd
        first_token = now + truth.elapsed_s(place.name, now, first_s)
        ends = now + truth.elapsed_s(place.name, now, first_s + rest_s)
        self._at(first_token, lambda: self._first_token(one, ends))

    def _fail(self, one: Try, http_status: int) -> None:
        one.http_status = http_status
        self._end(one, "http_error")

    def _first_token(self, one: Try, ends: float) -> None:
        if one.is_over:
            return
        one.first_token, one.ends = self.now, ends
        one.exchange.first_token = self.now
        for other in [each for each in one.exchange.open if each is not one]:
            self._end(other, "hedge_lost")
        call = one.exchange.call
        one.exchange.strategy.first_token(call, one.site.place.name, self.now - one.begun, self.now)
        total = call.arrived_s + self.scenario.timeouts.total_s
        self._at(min(ends, total), lambda: self._end(one, "ok" if ends <= total else "timeout_total"))

    def _end(self, one: Try, result: Result) -> None:
        if one.is_over:
            return
        one.is_over = True
        exchange = one.exchange
        exchange.open.remove(one)
        exchange.has_timed_out |= result in TIMEOUTS
        outcome = self._outcome(one, result)
        exchange.cost_usd += outcome.cost_usd or 0.0
        exchange.strategy.observe(exchange.call, outcome, self.now)
        self._leave(one)
        if one.first_token is not None:
            self._finish(exchange, one, result == "ok")
        elif result != "hedge_lost" and not exchange.open:
            self._follow(exchange, _sent_on(exchange.route, (self.now, outcome)))

    def _leave(self, one: Try) -> None:
        site = one.site
        if not one.is_inside:
            if one in site.waiting:
                site.waiting.remove(one)
            return
        site.inside.remove(one)
        if site.waiting:
            self._serve(site.waiting.popleft())

    def _outcome(self, one: Try, result: Result) -> Outcome:
        call, place, now = one.exchange.call, one.site.place, self.now
        tokens, ttft_s, tpot_s, cost_usd = 0, None, None, 0.0
        if one.first_token is not None:
            ttft_s, took_s = one.first_token - one.begun, now - one.first_token
            share = 1.0 if result == "ok" else took_s / (one.ends - one.first_token)
            tokens = 1 + int((call.output_tokens - 1) * share)
            tpot_s = took_s / (tokens - 1) if tokens > 1 else None
            cost_usd = call.kind.input_tokens * place.input_usd_per_mtok + tokens * place.output_usd_per_mtok
        return Outcome(
            target=place.name,
            shape=call.kind.shape,
            result=result,
            total_s=now - one.begun,
            ttft_s=ttft_s,
            tpot_s=tpot_s,
            output_tokens=tokens or None,
            cost_usd=cost_usd / 1e6,
            http_status=one.http_status,
            retry_after_s=place.retry_after_s if one.http_status == 429 else None,
        )

    def _finish(self, exchange: Exchange, answer: Try | None, is_ok: bool = False) -> None:
        exchange.route.close()
        if exchange.strategy is not self._strategy:
            return
        first = exchange.first_token
        self.records.append(
            Record(
                call=exchange.call,
                ended_s=self.now,
                is_ok=is_ok,
                has_timed_out=exchange.has_timed_out,
                num_tries=exchange.num_tries,
                cost_usd=exchange.cost_usd,
                ttft_s=None if first is None else first - exchange.call.arrived_s,
                target=answer.site.place.name if answer else None,
            )
        )


def _sent_on(route: Route, failed: tuple[float, Outcome]) -> Choice | None:
    try:
        return route.send(failed)
    except StopIteration:
        return None


def chance_of(seed: int, strategy: str) -> Random:
    """A strategy's own dice."""
    return Random(f"{seed} {strategy}")
