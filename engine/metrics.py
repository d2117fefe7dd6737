"""The engine's Prometheus metrics, in a registry of their own.

Counts what the loop reports and reads gauges from the engine when scraped. Knows no HTTP.

Rounds and their tokens are counted in all (`rounds`, `draft_tokens`, …) and once more for each dimension by
itself (`shape_rounds{shape}`, `temperature_rounds{temperature}`, …). All labels on one counter would be a thousand
series each; one counter with a label that names the dimension could not be summed without counting rounds
several times. This way every counter adds up to the figure without labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.loop import Engine
from engine.observer import StepTimes
from engine.sequence import Round, Sequence
from engine.speculation_stats import Counts, SpeculationStats

_NAME = "sparkgate_engine_"
_STEP_PHASES = ("draft", "verify", "sample", "overhead")
_NEWEST_STEP_WEIGHT = 0.1  # recent step times are about the last twenty steps

_STEP_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0)
# OpenTelemetry's bounds, with finer ones for tokens, of which several come at once
_FIRST_TOKEN_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0),
)
_PER_TOKEN_BUCKETS = (
    *(0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5),
    *(0.75, 1.0, 2.5),
)
_DURATION_BUCKETS = tuple(0.01 * 2**i for i in range(14))
_WAIT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class EngineMetrics:
    """The loop's `Observer`."""

    def __init__(self, engine: Engine, model: str = "") -> None:
        self._registry = registry = CollectorRegistry()
        name = _NAME
        self._gen_ai = _GenAi(registry, model)
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
        phases = Counter(
            f"{name}step_phase_seconds", "Time of all steps, by phase", ["phase"], registry=registry
        )
        self._phases = [phases.labels(phase=phase) for phase in _STEP_PHASES]
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
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "running": ("Sequences being computed", lambda: len(engine.running)),
            "waiting": ("Sequences waiting", lambda: engine.num_open - len(engine.running)),
            "kv_used_fraction": ("Share of the cache's blocks in use", lambda: engine.kv_used_fraction),
            "kv_cached_blocks": (
                "Blocks that new requests can share",
                lambda: engine.allocator.num_cached,
            ),
        }
        gauges |= _gpu_gauges(engine.model.device)
        for gauge, (text, value) in gauges.items():
            Gauge(f"{name}{gauge}", text, registry=registry).set_function(value)
        self.speculation = SpeculationStats()
        registry.register(_SpeculationCollector(self.speculation))
        self.step_s: dict[str, float | None] = dict.fromkeys(_STEP_PHASES)
        self.num_requests = 0
        self.num_prompt_tokens = 0
        self.num_hit_tokens = 0

    @property
    def prefix_hit_rate(self) -> float | None:
        """Share of all prompt tokens that did not have to be computed; None before the first request."""
        return self.num_hit_tokens / self.num_prompt_tokens if self.num_prompt_tokens else None

    def step_done(self, times: StepTimes) -> None:
        self._step.observe(times.total_s)
        spent = (times.draft_s, times.verify_s, times.sample_s, times.overhead_s)
        for phase, counter, seconds in zip(_STEP_PHASES, self._phases, spent, strict=True):
            counter.inc(max(0.0, seconds))  # what is left of two clock readings may be a hair below zero
            mean = self.step_s[phase]
            self.step_s[phase] = seconds if mean is None else mean + _NEWEST_STEP_WEIGHT * (seconds - mean)

    def round_done(self, sequence: Sequence, done: Round, num_decoding: int) -> None:
        self.speculation.round_done(sequence, done, num_decoding)

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
        self._gen_ai.first_token.observe(sequence.first_token_s - sequence.arrived_s)

    def preempted(self, count: int) -> None:
        self._preemptions.inc(count)

    def ended(self, sequence: Sequence, reason: str) -> None:
        self.num_requests += 1
        self._requests.labels(finish_reason=reason).inc()
        self._completion_tokens.inc(len(sequence.output_ids))
        self._gen_ai.ended(sequence)

    def render(self) -> bytes:
        """Prometheus text format."""
        return generate_latest(self._registry)


class _GenAi:
    """Latencies by the names and bounds of OpenTelemetry's GenAI conventions, as Prometheus writes them."""

    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        labels = {"gen_ai_provider_name": "sparkgate", "gen_ai_request_model": model}

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            kind = Histogram(
                f"gen_ai_server_{name}_seconds", text, labels, buckets=buckets, registry=registry
            )
            return kind.labels(**labels)

        self.first_token = histogram("time_to_first_token", "Arrival to first token", _FIRST_TOKEN_BUCKETS)
        self._per_token = histogram(
            "time_per_output_token", "Of ended requests, each token after the first", _PER_TOKEN_BUCKETS
        )
        self._duration = histogram("request_duration", "Arrival to end of ended requests", _DURATION_BUCKETS)

    def ended(self, sequence: Sequence) -> None:
        if sequence.finished_s is None or sequence.first_token_s is None:
            return
        self._duration.observe(sequence.finished_s - sequence.arrived_s)
        further = len(sequence.output_ids) - 1
        if further > 0:
            self._per_token.observe((sequence.finished_s - sequence.first_token_s) / further)


class _SpeculationCollector(Collector):
    """Writes the counts out when scraped, so that a round costs no more than counting it once."""

    _FIGURES: tuple[tuple[str, str, Callable[[Counts], float]], ...] = (
        ("rounds", "Passes of the target over a decoding sequence", lambda counts: counts.rounds),
        ("draft_tokens", "Tokens drafted", lambda counts: counts.drafted),
        ("verified_tokens", "Drafted tokens that went through the target", lambda counts: counts.verified),
        ("accepted_tokens", "Drafted tokens accepted", lambda counts: counts.accepted),
        (
            "committed_tokens",
            "Tokens that rounds added to answers, the target's own included",
            lambda counts: counts.committed,
        ),
    )

    def __init__(self, stats: SpeculationStats) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        total = self._stats.total
        for figure, text, value in self._FIGURES:
            yield CounterMetricFamily(f"{_NAME}{figure}", text, value=value(total.overall))
            for dimension, bands in total.by.items():
                family = CounterMetricFamily(
                    f"{_NAME}{dimension}_{figure}", f"{text}, by {dimension}", labels=[dimension]
                )
                for band, counts in bands.items():
                    family.add_metric([band], value(counts))
                yield family
        for figure, text, rounds in (
            ("slot_verified", "Rounds that verified draft slot k", total.overall.verified_rounds),
            ("slot_accepted", "Rounds that accepted all drafts up to slot k", total.overall.survived_rounds),
        ):
            family = CounterMetricFamily(f"{_NAME}{figure}", text, labels=["slot"])
            for slot, count in enumerate(rounds, start=1):
                family.add_metric([str(slot)], count)
            yield family


def _gpu_gauges(device: torch.device) -> dict[str, tuple[str, Callable[[], float]]]:
    """None without a CUDA device; no utilisation where its library is missing or the device does not tell."""
    if device.type != "cuda":
        return {}
    gauges: dict[str, tuple[str, Callable[[], float]]] = {
        "gpu_memory_allocated_bytes": (
            "GPU memory that tensors hold",
            lambda: torch.cuda.memory_allocated(device),
        ),
        "gpu_memory_reserved_bytes": (
            "GPU memory taken from the driver",
            lambda: torch.cuda.memory_reserved(device),
        ),
    }
    try:
        torch.cuda.utilization(device)
    except Exception:  # a class of the optional library, which may not be there to be named
        return gauges
    text = "Share of the last moments in which the GPU computed"
    gauges["gpu_utilisation_fraction"] = (text, lambda: torch.cuda.utilization(device) / 100)
    return gauges
