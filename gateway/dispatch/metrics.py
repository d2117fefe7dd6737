"""Prometheus metrics of the data plane, with bounded labels: targets and shapes come from configuration.

`Metrics.closed` is called once per exchange. With several workers the figures are merged through prometheus_client's
shared files (the worker sets its folder before this module is imported).
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gateway.ledger.records import Exchange, tokens_per_s

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


class Metrics:
    """All metrics of one worker, on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        where = ("target", "shape")
        self.exchanges = Counter(
            "sparkgate_exchanges", "Client calls closed", (*where, "status"), registry=registry
        )
        self.attempts = Counter(
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
            buckets=(1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2),
            registry=registry,
        )
        self.tokens = Counter("sparkgate_tokens", "Tokens by kind", ("target", "kind"), registry=registry)
        self.cost = Counter("sparkgate_cost_usd", "Dollars booked", ("target",), registry=registry)
        self.timeouts = Counter(
            "sparkgate_timeouts", "Deadlines missed", ("target", "deadline"), registry=registry
        )
        self.in_flight = Gauge(
            "sparkgate_in_flight", "Calls being served", multiprocess_mode="livesum", registry=registry
        )
        self.tokens_per_s = Histogram(
            "sparkgate_tokens_per_second",
            "Output tokens after the first, per second",
            where,
            buckets=(5, 10, 20, 30, 40, 60, 80, 100, 150, 200, 400),
            registry=registry,
        )

    def closed(self, exchange: Exchange) -> None:
        last = exchange.attempts[-1] if exchange.attempts else None
        target, shape = (last.target if last else "none"), exchange.shape or "none"
        self.exchanges.labels(target, shape, str(exchange.status)).inc()
        for attempt in exchange.attempts:
            self.attempts.labels(attempt.target, attempt.result).inc()
            if attempt.usage:
                self.tokens.labels(attempt.target, "input").inc(attempt.usage.input_tokens)
                self.tokens.labels(attempt.target, "output").inc(attempt.usage.output_tokens)
            if attempt.cost_nusd:
                self.cost.labels(attempt.target).inc(attempt.cost_nusd * 1e-9)
        if exchange.timed_out:
            self.timeouts.labels(target, exchange.timed_out).inc()
        if exchange.overhead_s is not None:
            self.overhead.observe(exchange.overhead_s)
        if exchange.stream and exchange.ttft_s is not None:
            self.ttft.labels(target, shape).observe(exchange.ttft_s)
        if exchange.status == 200:
            self.total.labels(target, shape).observe(exchange.total_s)
            pace = (
                tokens_per_s(last.usage, exchange.ttft_s, exchange.total_s)
                if last and exchange.stream
                else None
            )
            if pace is not None:
                self.tokens_per_s.labels(target, shape).observe(pace)
