"""Prometheus metrics of the data plane, with bounded labels: targets and shapes come from configuration.

`Metrics.closed` is called once per exchange and only counts; `flush`, once a second and before a scrape, adds what has
been counted to the metrics themselves, each of which costs more than the counting. With several workers the figures
are merged through prometheus_client's shared files (the worker sets its folder before this module is imported).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client import Counter as PrometheusCounter

from gateway.ledger.records import Attempt, Exchange, Usage

# OpenTelemetry's bounds for gen_ai.server.time_to_first_token and …time_per_output_token, and SLOs among them
TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5),
    *(5.0, 7.5, 10.0, 30.0),
)
TPOT_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOTAL_BUCKETS = tuple(0.01 * 2**i for i in range(14))
OVERHEAD_BUCKETS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2)
Further = Literal["hedge", "retry", "fallback"]
_KINDS = {
    kind: attrgetter(f"{kind}_tokens") for kind in ("input", "output", "cached", "cache_write", "reasoning")
}


class Metrics:
    """All metrics of one worker, on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> PrometheusCounter:
            return PrometheusCounter(f"sparkgate_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(f"sparkgate_{name}", text, labels, buckets=buckets, registry=registry)

        where = ("target", "shape")
        self.exchanges = counter("exchanges", "Client calls closed", *where, "status")
        self.ttft = histogram("ttft_seconds", "Time to first token of streamed calls", TTFT_BUCKETS, *where)
        self.tpot = histogram(
            "tpot_seconds",
            "Time per output token after the first, of streams that ended well",
            TPOT_BUCKETS,
            *where,
        )
        self.total = histogram(
            "completion_seconds", "Time to the end of calls that ended well", TOTAL_BUCKETS, *where
        )
        self.overhead = histogram(
            "overhead_seconds", "Time in the gateway before the first attempt is sent", OVERHEAD_BUCKETS
        )
        self.attempts = counter("attempts", "Upstream tries", "target", "result")
        self.further = counter(
            "further_attempts",
            "Upstream tries after a call's first, by target and why they were made",
            "target",
            "kind",
        )
        self.timeouts = counter("timeouts", "Deadlines missed", "target", "deadline")
        self.tokens = counter(
            "tokens",
            "Tokens by kind; cached and cache_write are parts of input, reasoning of output",
            "target",
            "kind",
        )
        self.cost = counter("cost_usd", "Dollars booked", "target")
        self.unpriced = counter("unpriced_attempts", "Upstream tries whose cost nobody knows", "target")
        self.cached = counter("cache_answers", "Calls answered without a target", "how")
        self.saved = counter("cache_saved_usd", "Dollars that these answers had cost once")
        self.shadows = counter("shadows", "Calls sent to a target on trial", "target", "result")
        self.shadow_cost = counter("shadow_cost_usd", "Dollars booked for them", "target")
        self.refusals = counter("refusals", "Calls turned away before routing", "code")
        self.stored_responses = counter(
            "stored_responses", "Requests about responses that targets keep", "target", "operation", "status"
        )
        self.aborted_uploads = counter("uploads_aborted", "Clients that left before their call was whole")
        self.in_flight = Gauge(
            "sparkgate_in_flight", "Calls being served", multiprocess_mode="livesum", registry=registry
        )

        self._served: defaultdict[tuple[str, str, str], _Served] = defaultdict(_Served)
        self._asked: defaultdict[str, _Asked] = defaultdict(_Asked)
        self._further: Counter[tuple[str, Further]] = Counter()
        self._missed: Counter[tuple[str, str]] = Counter()
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
        target, shape = (last.target if last else "none"), exchange.shape or "none"
        if exchange.cache:
            target = "cache"
            self._answered_from_cache(exchange)
        served = self._served[target, shape, str(exchange.status)]
        served.exchanges += 1
        for attempt in exchange.attempts:
            self._asked[attempt.target].add(attempt)
        if len(exchange.attempts) > 1:
            self._further.update(further(exchange.attempts))
        if exchange.timed_out:
            self._missed[_late(exchange) or target, exchange.timed_out] += 1
        if exchange.overhead_s is not None:
            self._overhead.add(exchange.overhead_s)
        ttft_s = exchange.ttft_s if exchange.stream else None
        if ttft_s is not None:
            served.ttft.add(ttft_s)
        if exchange.status == 200 and exchange.error_code is None:
            total_s, usage = exchange.total_s, last.usage if last else None
            served.total.add(total_s)
            if ttft_s is not None and usage and usage.output_tokens > 1 and total_s > ttft_s:
                served.tpot.add((total_s - ttft_s) / (usage.output_tokens - 1))

    def _answered_from_cache(self, exchange: Exchange) -> None:
        self.cached.labels(exchange.cache).inc()
        if exchange.saved_nusd:
            self.saved.inc(exchange.saved_nusd * 1e-9)

    def flush(self) -> None:
        """What was counted since the last time becomes visible."""
        self.in_flight.set(self.num_in_flight)
        for (target, shape, status), served in self._served.items():
            self.exchanges.labels(target, shape, status).inc(served.exchanges)
            served.ttft.move_to(self.ttft, target, shape)
            served.tpot.move_to(self.tpot, target, shape)
            served.total.move_to(self.total, target, shape)
        for target, asked in self._asked.items():
            self._show(target, asked)
        self._overhead.move_to(self.overhead)
        for code, count in self._refused.items():
            self.refusals.labels(code).inc(count)
        for (target, kind), count in self._further.items():
            self.further.labels(target, kind).inc(count)
        for (target, deadline), count in self._missed.items():
            self.timeouts.labels(target, deadline).inc(count)
        for counted in (self._served, self._asked, self._refused, self._further, self._missed):
            counted.clear()

    def _show(self, target: str, asked: _Asked) -> None:
        for result, count in asked.results.items():
            self.attempts.labels(target, result).inc(count)
        for kind, tokens in _KINDS.items():
            if count := tokens(asked.used):
                self.tokens.labels(target, kind).inc(count)
        if asked.cost_nusd:
            self.cost.labels(target).inc(asked.cost_nusd * 1e-9)
        if asked.unpriced:
            self.unpriced.labels(target).inc(asked.unpriced)


def further(attempts: Sequence[Attempt]) -> Iterator[tuple[str, Further]]:
    """Of all tries but the first of a call, in the order of their beginnings: target and why it was made.

    A hedge begins while another still runs, a retry at a target that failed before, a fallback at a new one.
    """
    for index, attempt in enumerate(attempts[1:], start=1):
        before = attempts[:index]
        if any(attempt.begun < other.begun + other.total_s for other in before):
            yield attempt.target, "hedge"
        elif any(attempt.target == other.target for other in before):
            yield attempt.target, "retry"
        else:
            yield attempt.target, "fallback"


def _late(exchange: Exchange) -> str | None:
    """The target whose try missed the deadline, which may not be the one that answered then."""
    missed = f"timeout_{exchange.timed_out}"
    return next((each.target for each in reversed(exchange.attempts) if each.result == missed), None)


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
    tpot: _Waits = field(default_factory=lambda: _Waits(TPOT_BUCKETS))
    total: _Waits = field(default_factory=lambda: _Waits(TOTAL_BUCKETS))


@dataclass(slots=True)
class _Asked:
    """Attempts at one target."""

    results: Counter[str] = field(default_factory=Counter)
    used: Usage = field(default_factory=lambda: Usage(0, 0))
    cost_nusd: int = 0
    unpriced: int = 0

    def add(self, attempt: Attempt) -> None:
        self.results[attempt.result] += 1
        if usage := attempt.usage:
            used = self.used
            used.input_tokens += usage.input_tokens
            used.output_tokens += usage.output_tokens
            used.cached_tokens += usage.cached_tokens
            used.cache_write_tokens += usage.cache_write_tokens
            used.reasoning_tokens += usage.reasoning_tokens
        if attempt.cost_nusd is None:
            self.unpriced += 1
        else:
            self.cost_nusd += attempt.cost_nusd
