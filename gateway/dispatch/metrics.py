"""Prometheus metrics of the data plane, with bounded labels: targets and shapes come from configuration.

`Metrics.closed` is called once per exchange and only counts; `flush`, once a second and before a scrape, adds what has
been counted to the metrics themselves, each of which costs more than the counting. With several workers the figures
are merged through prometheus_client's shared files (the worker sets its folder before this module is imported).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client import Counter as PrometheusCounter

from gateway.ledger.records import Attempt, Exchange, tokens_per_s

# OpenTelemetry's advice for gen_ai.server.time_to_first_token and gen_ai.server.request.duration
TTFT_BUCKETS = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    1.5,
    2.5,
    5.0,
    7.5,
    10.0,
    30.0,
)
TOTAL_BUCKETS = tuple(0.01 * 2**i for i in range(14))
OVERHEAD_BUCKETS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2)
PACE_BUCKETS = (5, 10, 20, 30, 40, 60, 80, 100, 150, 200, 400)


class Metrics:
    """All metrics of one worker, on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        where = ("target", "shape")
        self.exchanges = PrometheusCounter(
            "sparkgate_exchanges", "Client calls closed", (*where, "status"), registry=registry
        )
        self.attempts = PrometheusCounter(
            "sparkgate_attempts", "Upstream tries", ("target", "result"), registry=registry
        )
        self.ttft = Histogram(
            "sparkgate_ttft_seconds",
            "Time to first token of streamed calls",
            where,
            buckets=TTFT_BUCKETS,
            registry=registry,
        )
        self.total = Histogram(
            "sparkgate_completion_seconds",
            "Time to the end of a call",
            where,
            buckets=TOTAL_BUCKETS,
            registry=registry,
        )
        self.overhead = Histogram(
            "sparkgate_overhead_seconds",
            "Time in the gateway before the first attempt is sent",
            buckets=OVERHEAD_BUCKETS,
            registry=registry,
        )
        self.tokens = PrometheusCounter(
            "sparkgate_tokens", "Tokens by kind", ("target", "kind"), registry=registry
        )
        self.cost = PrometheusCounter("sparkgate_cost_usd", "Dollars booked", ("target",), registry=registry)
        self.shadows = PrometheusCounter(
            "sparkgate_shadows", "Calls sent to a target on trial", ("target", "result"), registry=registry
        )
        self.shadow_cost = PrometheusCounter(
            "sparkgate_shadow_cost_usd", "Dollars booked for them", ("target",), registry=registry
        )
        self.refusals = PrometheusCounter(
            "sparkgate_refusals", "Calls turned away before routing", ("code",), registry=registry
        )
        self.stored_responses = PrometheusCounter(
            "sparkgate_stored_responses",
            "Requests about responses that targets keep",
            ("target", "operation", "status"),
            registry=registry,
        )
        self.aborted_uploads = PrometheusCounter(
            "sparkgate_uploads_aborted", "Clients that left before their call was whole", registry=registry
        )
        self.timeouts = PrometheusCounter(
            "sparkgate_timeouts", "Deadlines missed", ("target", "deadline"), registry=registry
        )
        self.in_flight = Gauge(
            "sparkgate_in_flight", "Calls being served", multiprocess_mode="livesum", registry=registry
        )
        self.tokens_per_s = Histogram(
            "sparkgate_tokens_per_second",
            "Output tokens after the first, per second",
            where,
            buckets=PACE_BUCKETS,
            registry=registry,
        )

        self._served: defaultdict[tuple[str, str, str], _Served] = defaultdict(_Served)
        self._tried: Counter[tuple[str, str]] = Counter()
        self._used: Counter[tuple[str, str]] = Counter()
        self._missed: Counter[tuple[str, str]] = Counter()
        self._cost_nusd: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._overhead = _Waits(OVERHEAD_BUCKETS)
        self.num_in_flight = 0

    def refused(self, code: str) -> None:
        """A call that was turned away before it had an exchange."""
        self._refused[code] += 1

    def shadowed(self, attempt: Attempt) -> None:
        """Of these there are few: they need no counting beforehand."""
        self.shadows.labels(attempt.target, attempt.result).inc()
        if attempt.cost_nusd:
            self.shadow_cost.labels(attempt.target).inc(attempt.cost_nusd * 1e-9)

    def closed(self, exchange: Exchange) -> None:
        last = exchange.last
        target, shape = (last.target if last else exchange.cache or "none"), exchange.shape or "none"
        served = self._served[target, shape, str(exchange.status)]
        served.exchanges += 1
        for attempt in exchange.attempts:
            self._tried[attempt.target, attempt.result] += 1
            if attempt.usage:
                self._used[attempt.target, "input"] += attempt.usage.input_tokens
                self._used[attempt.target, "output"] += attempt.usage.output_tokens
            if attempt.cost_nusd:
                self._cost_nusd[attempt.target] += attempt.cost_nusd
        if exchange.timed_out:
            self._missed[target, exchange.timed_out] += 1
        if exchange.overhead_s is not None:
            self._overhead.add(exchange.overhead_s)
        if exchange.stream and exchange.ttft_s is not None:
            served.ttft.add(exchange.ttft_s)
        if exchange.status == 200:
            served.total.add(exchange.total_s)
            if exchange.stream and last is not None:
                pace = tokens_per_s(last.usage, exchange.ttft_s, exchange.total_s)
                if pace is not None:
                    served.pace.add(pace)

    def flush(self) -> None:
        """What was counted since the last time becomes visible."""
        self.in_flight.set(self.num_in_flight)
        for (target, shape, status), served in self._served.items():
            self.exchanges.labels(target, shape, status).inc(served.exchanges)
            served.ttft.move_to(self.ttft, target, shape)
            served.total.move_to(self.total, target, shape)
            served.pace.move_to(self.tokens_per_s, target, shape)
        self._overhead.move_to(self.overhead)
        for counts, metric in (
            (self._tried, self.attempts),
            (self._used, self.tokens),
            (self._missed, self.timeouts),
        ):
            for labels, count in counts.items():
                metric.labels(*labels).inc(count)
            counts.clear()
        for target, nusd in self._cost_nusd.items():
            self.cost.labels(target).inc(nusd * 1e-9)
        for code, count in self._refused.items():
            self.refusals.labels(code).inc(count)
        self._served.clear()
        self._cost_nusd.clear()
        self._refused.clear()


class _Waits:
    """A histogram's samples until they are moved to it."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def move_to(self, metric: Histogram, *labels: str) -> None:
        """Adds whole buckets, for which prometheus_client has no public method."""
        if not any(self.counts):
            return
        child = metric.labels(*labels) if labels else metric
        child._sum.inc(self.total)
        for bucket, count in zip(child._buckets, self.counts, strict=True):
            if count:
                bucket.inc(count)
        self.counts, self.total = [0] * len(self.counts), 0.0


@dataclass(slots=True)
class _Served:
    """Exchanges of one target, shape and status."""

    exchanges: int = 0
    ttft: _Waits = field(default_factory=lambda: _Waits(TTFT_BUCKETS))
    total: _Waits = field(default_factory=lambda: _Waits(TOTAL_BUCKETS))
    pace: _Waits = field(default_factory=lambda: _Waits(PACE_BUCKETS))
