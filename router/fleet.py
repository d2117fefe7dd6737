"""`Fleet`: what is known of all targets now, learnt from outcomes; `Health` is one target's part of it.

Owned and fed by the gateway (`start`, `observe`, `set_engine`), read by `decide`. Two latencies are kept apart,
time to first token and time per output token, each per shape with the target's other shapes as prior.
In: outcomes, engine states, the time. Out: predictions. No I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from router.breaker import Breaker
from router.estimate import Decayed, Latency
from router.outcome import TIMEOUTS, Outcome
from router.retries import RetryBudget

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


@dataclass(slots=True)
class Learnt:
    """Estimates of one target for one shape (or all of them)."""

    half_life_s: float
    ttft: Latency = field(init=False)
    tpot: Latency = field(init=False)
    completion: Latency = field(init=False)
    output_tokens: Latency = field(init=False)  # a length, not a wait; the same decayed mean serves
    cost_usd: Decayed = field(init=False)
    costed: Decayed = field(init=False)
    succeeded: Decayed = field(init=False)
    failed: Decayed = field(init=False)
    timed_out: Decayed = field(init=False)
    truncated: Decayed = field(init=False)

    def __post_init__(self) -> None:
        half_life_s = self.half_life_s
        self.ttft, self.tpot = Latency(half_life_s), Latency(half_life_s)
        self.completion, self.output_tokens = Latency(half_life_s), Latency(half_life_s)
        self.cost_usd, self.costed = Decayed(half_life_s), Decayed(half_life_s)
        self.succeeded, self.failed = Decayed(half_life_s), Decayed(half_life_s)
        self.timed_out, self.truncated = Decayed(half_life_s), Decayed(half_life_s)

    def observe(self, outcome: Outcome, now: float) -> None:
        if outcome.result == "ok":
            self._learn_speed(outcome, now)
            self.succeeded.add(1.0, now)
        elif outcome.is_failure:
            self.failed.add(1.0, now)
        if outcome.result == "timeout_first_token":
            self.ttft.add_censored(outcome.total_s, now)
        if outcome.result in TIMEOUTS:
            self.completion.add_censored(outcome.total_s, now)
            self.timed_out.add(1.0, now)
        if outcome.is_truncated:
            self.truncated.add(1.0, now)
        if outcome.cost_usd is not None:
            self.cost_usd.add(outcome.cost_usd, now)
            self.costed.add(1.0, now)

    def _learn_speed(self, outcome: Outcome, now: float) -> None:
        self.completion.add(outcome.total_s, now)
        if outcome.ttft_s is not None:
            self.ttft.add(outcome.ttft_s, now)
        if outcome.tpot_s is not None:
            self.tpot.add(outcome.tpot_s, now)
        if outcome.output_tokens:
            self.output_tokens.add(float(outcome.output_tokens), now)

    def success_share(self, now: float) -> float:
        """Mean of a Beta with a mild prior of nine successes in ten."""
        ok, failed = self.succeeded.at(now), self.failed.at(now)
        return (ok + 9.0) / (ok + failed + 10.0)


@dataclass(slots=True)
class Health:
    """All that is known of one target."""

    half_life_s: float
    in_flight: int = 0
    breaker: Breaker = field(default_factory=Breaker)
    retries: RetryBudget = field(default_factory=RetryBudget)
    engine: EngineState | None = None
    unreachable_since_s: float | None = None
    usual_in_flight: Decayed = field(init=False)  # decayed sum of the load met by finished calls
    finished: Decayed = field(init=False)
    learnt: dict[str, Learnt] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.usual_in_flight, self.finished = Decayed(self.half_life_s), Decayed(self.half_life_s)

    def of(self, shape: str) -> Learnt:
        if shape not in self.learnt:
            self.learnt[shape] = Learnt(self.half_life_s)
        return self.learnt[shape]

    def crowding(self, now: float) -> float:
        """How much fuller the target is than when its latencies were seen: (1 + now) ÷ (1 + usual), at least 1."""
        finished = self.finished.at(now)
        usual = self.usual_in_flight.at(now) / finished if finished > 0 else 0.0
        return max(1.0, (1 + self.in_flight) / (1 + usual))


@dataclass(slots=True)
class Fleet:
    """Health by target name. One writer (the gateway's event loop)."""

    half_life_s: float = 60.0
    targets: dict[str, Health] = field(default_factory=dict)

    def health(self, target: str) -> Health:
        if target not in self.targets:
            self.targets[target] = Health(self.half_life_s)
        return self.targets[target]

    def start(self, target: str) -> None:
        self.health(target).in_flight += 1

    def observe(self, outcome: Outcome, now: float) -> None:
        """Takes in the end of an attempt that `start` announced."""
        health = self.health(outcome.target)
        health.in_flight -= 1
        health.usual_in_flight.add(health.in_flight, now)
        health.finished.add(1.0, now)
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
