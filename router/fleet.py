"""`Fleet`: what is known of all targets now, learnt from outcomes; `Health` is one target's part of it.

Owned and fed by the gateway (`start`, `first_token`, `observe`, `credit`, `absorb`, `set_engine`), read by `decide`.
Two latencies are kept apart, time to first token and time per output token (`router.waits`).
In: outcomes, engine states, the time. Out: predictions. No I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from router.breaker import Breaker
from router.catalog import Target
from router.decision import Candidate
from router.digest import Digest
from router.learnt import Learnt
from router.lengths import MAX_WORKFLOWS, Length
from router.outcome import TIMEOUTS, Outcome
from router.outlook import ENOUGH_SAMPLES, Outlook, read_out
from router.policy import ShapePolicy
from router.retries import RESERVE_OF_ALL_PER_S, HedgeBudget, RetryBudget
from router.room import Room
from router.waits import Began, Waits


@dataclass(frozen=True, slots=True)
class EngineState:
    """What an engine said of itself: sequences running and waiting, its slots and its pace."""

    running: int
    waiting: int
    max_batch: int
    max_context_tokens: int | None = None
    draining: bool = False
    steps_per_s: Mapping[int, float] = field(default_factory=dict)  # by number of sequences decoding
    accepted_length: float = 1.0  # tokens that a step adds to an answer, more than one where it speculates
    accepted_length_by_shape: Mapping[str, float] = field(default_factory=dict)
    prefill_tokens_per_s: float = 0.0  # 0 = not measured

    def tpot_s(self, shape: str) -> float | None:
        """Seconds a token of one more answer would take: a step of that many sequences ÷ the tokens it yields.

        None before a step was measured. Of batch sizes never seen the nearest one speaks.
        """
        if not self.steps_per_s:
            return None
        size = min(self.running + 1, self.max_batch)
        nearest = min(self.steps_per_s, key=lambda seen: abs(seen - size))
        tokens = self.accepted_length_by_shape.get(shape, self.accepted_length)
        return 1.0 / (self.steps_per_s[nearest] * tokens)


@dataclass(slots=True)
class Weighed:
    """A candidate, and all that it was weighed from: while that stays, it stands for the next call too.

    One is made for most calls, and never changed.
    """

    candidate: Candidate
    target: Target
    outlook: Outlook
    rules: ShapePolicy
    engine: EngineState | None
    in_flight: int
    output_tokens: int
    input_tokens: int | None  # None: they did not count
    stream: bool


@dataclass(slots=True)
class Health:
    """All that is known of one target."""

    half_life_s: float
    in_flight: int = 0
    breaker: Breaker = field(default_factory=Breaker)
    retries: RetryBudget = field(default_factory=RetryBudget)
    engine: EngineState | None = None
    unreachable_since_s: float | None = None
    waits: Waits = field(default_factory=Waits)
    learnt: dict[str, Learnt] = field(default_factory=dict)
    outlooks: dict[str, Outlook] = field(default_factory=dict)
    weighed: dict[str, Weighed] = field(default_factory=dict)  # by shape, the newest
    successes: int = 0  # in a row, of whatever shapes
    room: Room = field(default_factory=Room)

    def of(self, shape: str) -> Learnt:
        learnt = self.learnt.get(shape)
        if learnt is None:
            learnt = self.learnt[shape] = Learnt(self.half_life_s)
        return learnt

    def outlook(self, shape: str, now: float) -> Outlook:
        """What is known for this shape; read anew once it is old, or once much has been learnt since."""
        kept = self.outlooks.get(shape)
        if kept is None or now >= kept.until_s or kept.learnt.num_samples > kept.until_samples:
            own = self.of(shape)
            kept = self.outlooks[shape] = read_out(
                shape, own, self.learnt.values(), self.waits, self.breaker, now
            )
        return kept

    def observe(self, outcome: Outcome, now: float, call: Began | None) -> None:
        self.in_flight -= 1
        slow = self.waits.end(outcome, call, now)
        own = self.of(outcome.shape)
        own.observe(outcome, now, slow)
        if outcome.result == "ok":
            if call is not None and call.load >= self.room.taken:
                self.room.taken = call.load + 1
            self.successes += 1
            if own.sums.failed and own.is_surprised_by(self.successes):
                for each in self.learnt.values():
                    each.forgive()
        elif outcome.is_failure:
            self.successes = 0
            if outcome.http_status == 429 and call is not None:
                self.room.refuse(call.load, call.at_s, now)

    def absorb(self, shape: str, digest: Digest, now: float) -> None:
        self.waits.absorb(shape, digest, now)
        slow = self.waits.slow(shape, digest.sums.output_tokens / max(digest.sums.outputs, 1.0))
        self.of(shape).absorb(digest, now, slow)


@dataclass(slots=True)
class Fleet:
    """Health by target name, what hedges may still be spent by shape, and further tries by all calls.

    One writer (the gateway's event loop).
    """

    half_life_s: float = 60.0
    targets: dict[str, Health] = field(default_factory=dict)
    hedges: dict[str, HedgeBudget] = field(default_factory=dict)
    retries: RetryBudget = field(default_factory=lambda: RetryBudget(RESERVE_OF_ALL_PER_S))
    lengths: dict[str, Length] = field(default_factory=dict)  # of answers, by shape
    lengths_of_workflows: dict[tuple[str, str], Length] = field(default_factory=dict)  # by shape and workflow

    def health(self, target: str) -> Health:
        health = self.targets.get(target)
        if health is None:
            health = self.targets[target] = Health(self.half_life_s)
        return health

    def hedge_budget(self, shape: str) -> HedgeBudget:
        """Second tries beside a running one: a share of the calls and nothing more."""
        if shape not in self.hedges:
            self.hedges[shape] = HedgeBudget()
        return self.hedges[shape]

    def length(self, shape: str, workflow: str | None) -> Length | None:
        """Of the workflow's answers of this shape, else of the shape's; None where none has ended."""
        own = self.lengths_of_workflows.get((shape, workflow)) if workflow else None
        return self.lengths.get(shape) if own is None or own.weight < ENOUGH_SAMPLES else own

    def credit(self, shares: Mapping[tuple[str, str], float], is_completed: bool, now: float) -> None:
        """A task has come to its end: by target and shape the shares that they had in it."""
        for (target, shape), share in shares.items():
            self.health(target).of(shape).tasks.add(share, is_completed, now)

    def start(
        self, target: str, shape: str | None = None, now: float | None = None, is_stream: bool = True
    ) -> Began | None:
        """An attempt begins. With its shape and moment it teaches while it runs; without, when it has ended.

        What is returned is to be handed to `first_token` and `observe`.
        """
        health = self.health(target)
        load = health.in_flight
        health.in_flight = load + 1
        if shape is None or now is None:
            return None
        return health.waits.start(shape, load, now, is_stream)

    def first_token(self, target: str, shape: str, ttft_s: float, now: float, call: Began) -> None:
        """The first token of a started attempt is here: what it says of the target need not wait for its end."""
        self.health(target).waits.first_token(shape, ttft_s, call, now)

    def observe(self, outcome: Outcome, now: float, call: Began | None = None) -> None:
        """Takes in the end of an attempt that `start` announced."""
        health = self.health(outcome.target)
        health.observe(outcome, now, call)
        if outcome.result == "ok" and outcome.output_tokens:
            self._learn_length(outcome.shape, outcome.workflow, outcome.output_tokens)
        if outcome.is_shadow:
            return  # the breaker and its probes are of calls
        if outcome.result == "ok":
            health.breaker.succeed(now)
        elif outcome.is_failure:
            health.breaker.fail(now, outcome.retry_after_s, outcome.result in TIMEOUTS)

    def absorb(self, target: str, shape: str, digest: Digest, now: float) -> None:
        """Takes in what another worker learnt at that moment, or what was learnt earlier."""
        health = self.health(target)
        health.absorb(shape, digest, now)
        health.breaker.hear(digest.failures_in_a_row)

    def _learn_length(self, shape: str, workflow: str | None, tokens: int) -> None:
        length = self.lengths.get(shape)
        if length is None:
            length = self.lengths[shape] = Length()
        length.add(tokens)
        if workflow:
            known, key = self.lengths_of_workflows, (shape, workflow)
            if key not in known:
                if len(known) >= MAX_WORKFLOWS:
                    del known[next(iter(known))]
                known[key] = Length()
            known[key].add(tokens)

    def set_engine(self, target: str, state: EngineState | None, now: float) -> None:
        """The engine's own report, or None when it did not answer."""
        health = self.health(target)
        if state is None:
            health.engine = None
            if health.unreachable_since_s is None:
                health.unreachable_since_s = now
        else:
            health.engine, health.unreachable_since_s = state, None
