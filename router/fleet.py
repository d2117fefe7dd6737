"""`Fleet`: what is known of all targets now, learnt from outcomes; `Health` is one target's part of it.

Owned and fed by the gateway (`start`, `observe`, `set_engine`), read by `decide`. Two latencies are kept apart,
time to first token and time per output token, each per shape with the target's other shapes as prior.
In: outcomes, engine states, the time. Out: predictions. No I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from router.breaker import Breaker
from router.catalog import Target
from router.decision import Candidate
from router.learnt import Learnt
from router.outcome import Outcome
from router.outlook import Outlook, read_out
from router.policy import ShapePolicy
from router.retries import HedgeBudget, RetryBudget

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
    usual_in_flight: float
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
    usual_in_flight: float = 0.0  # mean load met by finished calls, the newest counting most
    learnt: dict[str, Learnt] = field(default_factory=dict)
    outlooks: dict[str, Outlook] = field(default_factory=dict)
    weighed: dict[str, Weighed] = field(default_factory=dict)  # by shape, the newest
    _num_finished: float = 0.0  # decayed
    _finished_s: float = 0.0

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
            kept = self.outlooks[shape] = read_out(self.of(shape), self.of(ALL_SHAPES), now)
        return kept

    def finish(self, now: float) -> None:
        """A call has ended."""
        self.in_flight -= 1
        kept = self._num_finished * 0.5 ** (max(0.0, now - self._finished_s) / self.half_life_s)
        self.usual_in_flight += (self.in_flight - self.usual_in_flight) / (kept + 1.0)
        self._num_finished, self._finished_s = kept + 1.0, max(now, self._finished_s)

    def crowding(self) -> float:
        """How much fuller the target is than when its latencies were seen: (1 + now) ÷ (1 + usual), at least 1."""
        in_flight, usual = self.in_flight, self.usual_in_flight
        return (1 + in_flight) / (1 + usual) if in_flight > usual else 1.0


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

    def start(self, target: str) -> None:
        self.health(target).in_flight += 1

    def observe(self, outcome: Outcome, now: float) -> None:
        """Takes in the end of an attempt that `start` announced."""
        health = self.health(outcome.target)
        health.finish(now)
        for shape in (outcome.shape, ALL_SHAPES):
            health.of(shape).observe(outcome, now)
        if outcome.is_failure:
            health.breaker.fail(now, outcome.retry_after_s)
        elif outcome.result == "ok":
            health.breaker.succeed()

    def set_engine(self, target: str, state: EngineState | None, now: float) -> None:
        """The engine's own report, or None when it did not answer."""
        health = self.health(target)
        if state is None:
            health.engine = None
            if health.unreachable_since_s is None:
                health.unreachable_since_s = now
        else:
            health.engine, health.unreachable_since_s = state, None
