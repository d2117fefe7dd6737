"""The engine's Prometheus metrics, in a registry of their own.

Counts what the loop reports and reads gauges from the engine when scraped. Knows no HTTP.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from engine.loop import Engine
from engine.sequence import Sequence

_STEP_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0)
_WAIT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class EngineMetrics:
    """The loop's `Observer`."""

    def __init__(self, engine: Engine) -> None:
        self._registry = registry = CollectorRegistry()
        name = "sparkgate_engine_"
        self._requests = Counter(f"{name}requests", "Requests ended", ["finish_reason"], registry=registry)
        self._prompt_tokens = Counter(
            f"{name}prompt_tokens", "Prompt tokens of admitted requests", registry=registry
        )
        self._hit_tokens = Counter(
            f"{name}prefix_hit_tokens", "Of these, tokens found in the prefix cache", registry=registry
        )
        self._completion_tokens = Counter(f"{name}completion_tokens", "Tokens generated", registry=registry)
        self._preemptions = Counter(f"{name}preemptions", "Sequences preempted", registry=registry)
        self._step = Histogram(
            f"{name}step_seconds", "One engine step", buckets=_STEP_BUCKETS, registry=registry
        )
        self._queue = Histogram(
            f"{name}queue_seconds", "Arrival to first step", buckets=_WAIT_BUCKETS, registry=registry
        )
        self._prefill = Histogram(
            f"{name}prefill_seconds", "First step to first token", buckets=_WAIT_BUCKETS, registry=registry
        )
        self._first_token = Histogram(
            f"{name}time_to_first_token_seconds",
            "Arrival to first token",
            buckets=_WAIT_BUCKETS,
            registry=registry,
        )
        gauges = {
            "running": ("Sequences being computed", lambda: len(engine.running)),
            "waiting": ("Sequences waiting", lambda: engine.num_open - len(engine.running)),
            "kv_used_fraction": ("Share of the cache's blocks in use", lambda: engine.kv_used_fraction),
            "kv_cached_blocks": (
                "Blocks that new requests can share",
                lambda: engine.allocator.num_cached,
            ),
        }
        for gauge, (text, value) in gauges.items():
            Gauge(f"{name}{gauge}", text, registry=registry).set_function(value)
        self.num_requests = 0
        self.num_prompt_tokens = 0
        self.num_hit_tokens = 0

    @property
    def prefix_hit_rate(self) -> float | None:
        """Share of all prompt tokens that did not have to be computed; None before the first request."""
        return self.num_hit_tokens / self.num_prompt_tokens if self.num_prompt_tokens else None

    def step_done(self, seconds: float) -> None:
        self._step.observe(seconds)

    def admitted(self, sequence: Sequence) -> None:
        self.num_prompt_tokens += len(sequence.prompt_ids)
        self.num_hit_tokens += sequence.num_cached
        self._prompt_tokens.inc(len(sequence.prompt_ids))
        self._hit_tokens.inc(sequence.num_cached)

    def first_token(self, sequence: Sequence) -> None:
        assert sequence.admitted_s is not None
        assert sequence.first_token_s is not None
        self._queue.observe(sequence.admitted_s - sequence.arrived_s)
        self._prefill.observe(sequence.first_token_s - sequence.admitted_s)
        self._first_token.observe(sequence.first_token_s - sequence.arrived_s)

    def preempted(self, count: int) -> None:
        self._preemptions.inc(count)

    def ended(self, sequence: Sequence, reason: str) -> None:
        self.num_requests += 1
        self._requests.labels(finish_reason=reason).inc()
        self._completion_tokens.inc(len(sequence.output_ids))

    def render(self) -> bytes:
        """Prometheus text format."""
        return generate_latest(self._registry)
