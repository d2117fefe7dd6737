"""`Fleet`: what is known of all targets now, learnt from outcomes; `Health` is one target's part of it.

Owned and fed by the gateway (`start`, `first_token`, `observe`, `absorb`, `set_engine`), read by `decide`. Two
latencies are kept apart, time to first token and time per output token (`router.waits`).
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
from router.outcome import Outcome
from router.outlook import Outlook, read_out
from router.policy import ShapePolicy
from router.retries import HedgeBudget, RetryBudget
from router.waits import Waits

ALL_SHAPES = "*"  # the pooled estimate, prior of every shape


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


@dataclass(frozen=True, slots=True)
class Weighed:
    """A candidate, and all that it was weighed from: while that stays, it stands for the next call too."""

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

    @property
    def is_untroubled(self) -> bool:
        """Nothing speaks against it: no failures shed it, and it is no engine, of which more is known."""
        return self.breaker.until_s == 0.0 and self.engine is None and self.unreachable_since_s is None

    def of(self, shape: str) -> Learnt:
        if shape not in self.learnt:
            self.learnt[shape] = Learnt(self.half_life_s, has_tails=shape != ALL_SHAPES)
        return self.learnt[shape]

    def outlook(self, shape: str, now: float) -> Outlook:
        """What is known for this shape; read anew once it is old, or once much has been learnt since."""
        kept = self.outlooks.get(shape)
        if kept is None or now >= kept.until_s or kept.learnt.num_samples > kept.until_samples:
            kept = self.outlooks[shape] = read_out(
                shape, self.of(shape), self.of(ALL_SHAPES), self.waits, now
            )
        return kept

    def start(self, shape: str | None, now: float | None, is_stream: bool) -> None:
        if shape is not None and now is not None:
            self.waits.start(shape, self.in_flight, now, is_stream)
        self.in_flight += 1

    def observe(self, outcome: Outcome, now: float) -> None:
        self.in_flight -= 1
        slow = self.waits.end(outcome, now)
        self.of(outcome.shape).observe(outcome, now, slow)
        self.of(ALL_SHAPES).observe(outcome, now)

    def absorb(self, shape: str, digest: Digest, now: float) -> None:
        self.waits.absorb(shape, digest, now)
        slow = self.waits.slow(shape, digest.sums.output_tokens / max(digest.sums.outputs, 1.0))
        self.of(shape).absorb(digest, now, slow)
        self.of(ALL_SHAPES).absorb(digest, now)


@dataclass(slots=True)
class Fleet:
    """Health by target name, and what hedges may still be spent by shape. One writer (the gateway's event loop)."""

    half_life_s: float = 60.0
    targets: dict[str, Health] = field(default_factory=dict)
    hedges: dict[str, HedgeBudget] = field(default_factory=dict)

    def health(self, target: str) -> Health:
        if target not in self.targets:
            self.targets[target] = Health(self.half_life_s)
        return self.targets[target]

    def hedge_budget(self, shape: str) -> HedgeBudget:
        """Second tries beside a running one: a share of the calls and nothing more."""
        if shape not in self.hedges:
            self.hedges[shape] = HedgeBudget()
        return self.hedges[shape]

    def start(
        self, target: str, shape: str | None = None, now: float | None = None, is_stream: bool = True
    ) -> None:
        """An attempt begins. With its shape and moment it teaches while it runs; without, when it has ended."""
        self.health(target).start(shape, now, is_stream)

    def first_token(self, target: str, shape: str, ttft_s: float, now: float) -> None:
        """The first token of a started attempt is here: what it says of the target need not wait for its end."""
        self.health(target).waits.first_token(shape, ttft_s, now)

    def observe(self, outcome: Outcome, now: float) -> None:
        """Takes in the end of an attempt that `start` announced."""
        health = self.health(outcome.target)
        health.observe(outcome, now)
        if outcome.is_shadow:
            return  # the breaker and its probes are of calls
        if outcome.is_failure:
            health.breaker.fail(now, outcome.retry_after_s)
        elif outcome.result == "ok":
            health.breaker.succeed(now)

    def absorb(self, target: str, shape: str, digest: Digest, now: float) -> None:
        """Takes in what another worker learnt at that moment, or what was learnt earlier."""
        health = self.health(target)
        health.absorb(shape, digest, now)
        health.breaker.hear(digest.failures_in_a_row)

    def set_engine(self, target: str, state: EngineState | None, now: float) -> None:
        """The engine's own report, or None when it did not answer."""
        health = self.health(target)
        if state is None:
            health.engine = None
            if health.unreachable_since_s is None:
                health.unreachable_since_s = now
        else:
            health.engine, health.unreachable_since_s = state, None
