"""Metrics of recorded exchanges by OpenTelemetry's GenAI conventions, summed here and read out now and then.

In: the drain's records. Out: `MetricsData`, cumulative since the start. The SDK's own instruments would take ten
microseconds a measurement, several of which make an exchange; adding to a bucket takes one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource

from gateway.telemetry import attributes
from gateway.telemetry.attributes import Attributes, Row
from gateway.telemetry.settings import Telemetry
from gateway.telemetry.spans import SCOPE

_SECONDS = tuple(0.01 * 2**i for i in range(14))
_CUMULATIVE = AggregationTemporality.CUMULATIVE


@dataclass(frozen=True, slots=True, eq=False)
class _Instrument:
    name: str
    unit: str
    description: str
    bounds: tuple[float, ...] = _SECONDS


DURATION = _Instrument("gen_ai.server.request.duration", "s", "Calls, from the first byte to the last")
FIRST_TOKEN = _Instrument(
    "gen_ai.server.time_to_first_token",
    "s",
    "Streamed calls, to the first token",
    (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
PER_TOKEN = _Instrument(
    "gen_ai.server.time_per_output_token",
    "s",
    "Streamed calls, each token after the first",
    (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
)
OPERATION = _Instrument("gen_ai.client.operation.duration", "s", "Upstream tries")
FIRST_CHUNK = _Instrument(
    "gen_ai.client.operation.time_to_first_chunk", "s", "Streamed upstream tries, to the first token"
)
TOKENS = _Instrument(
    "gen_ai.client.token.usage", "{token}", "Tokens of upstream tries", tuple(4.0**i for i in range(14))
)
COST = _Instrument("sparkgate.cost", "USD", "What upstream tries cost, as far as it is known", ())
_ALL = (DURATION, FIRST_TOKEN, PER_TOKEN, OPERATION, FIRST_CHUNK, TOKENS, COST)
_Key = tuple[tuple[str, Any], ...]
MOST_SETS = 2_000  # of attributes, of one metric: as in the SDK, what is beyond them is summed up together
_BEYOND: _Key = (("otel.metric.overflow", True),)


@dataclass(slots=True)
class _Sum:
    counts: list[int]
    total: float = 0.0
    least: float = float("inf")
    most: float = 0.0

    def add(self, bounds: tuple[float, ...], value: float) -> None:
        self.counts[bisect_left(bounds, value)] += 1
        self.total += value
        self.least, self.most = min(self.least, value), max(self.most, value)


@dataclass(slots=True)
class Figures:
    """One writer; `read` may be another thread's."""

    telemetry: Telemetry
    resource: Resource
    started_ns: int
    _sums: dict[_Instrument, dict[_Key, _Sum]] = field(default_factory=lambda: {each: {} for each in _ALL})
    _lock: Lock = field(default_factory=Lock)

    def add(self, record: Mapping[str, Any]) -> None:
        """Records of other kinds say nothing here."""
        with self._lock:
            if record["kind"] == "exchange":
                row, attempts = record["exchange"], record["attempts"]
                self._add_all(_of_exchange(row), attributes.measured_exchange(row, attempts, self.telemetry))
                for attempt in attempts:
                    self._add_attempt(attempt, row)
            elif record["kind"] == "shadow":
                self._add_attempt(record["attempt"], None)

    def read(self, now_ns: int) -> MetricsData:
        with self._lock:
            metrics = [self._metric(each, sums, now_ns) for each, sums in self._sums.items() if sums]
        scope = ScopeMetrics(SCOPE, metrics, schema_url="")
        return MetricsData([ResourceMetrics(self.resource, [scope], schema_url="")])

    def _add_attempt(self, row: Row, exchange: Row | None) -> None:
        said = attributes.measured_attempt(row, exchange, self.telemetry)
        self._add_all(_of_attempt(row, exchange), said)
        for kind in ("input", "output"):
            if (tokens := row.get(f"{kind}_tokens")) is not None:
                self._add_all([(TOKENS, tokens)], said | {"gen_ai.token.type": kind})

    def _add_all(self, values: Iterable[tuple[_Instrument, float]], said: Attributes) -> None:
        key = tuple(said.items())
        for instrument, value in values:
            sums, bounds = self._sums[instrument], instrument.bounds
            kept = key if key in sums or len(sums) < MOST_SETS else _BEYOND
            if kept not in sums:
                sums[kept] = _Sum([0] * (len(bounds) + 1))
            sums[kept].add(bounds, value)

    def _metric(self, instrument: _Instrument, sums: Mapping[_Key, _Sum], now_ns: int) -> Metric:
        data: Sum | Histogram
        if instrument is COST:
            points = [
                NumberDataPoint(dict(key), self.started_ns, now_ns, of.total) for key, of in sums.items()
            ]
            data = Sum(points, _CUMULATIVE, is_monotonic=True)
        else:
            data = Histogram(
                [self._point(instrument, dict(key), of, now_ns) for key, of in sums.items()], _CUMULATIVE
            )
        return Metric(instrument.name, instrument.description, instrument.unit, data)

    def _point(self, instrument: _Instrument, said: Attributes, of: _Sum, now_ns: int) -> HistogramDataPoint:
        return HistogramDataPoint(
            attributes=said,
            start_time_unix_nano=self.started_ns,
            time_unix_nano=now_ns,
            count=sum(of.counts),
            sum=of.total,
            bucket_counts=tuple(of.counts),
            explicit_bounds=instrument.bounds,
            min=of.least,
            max=of.most,
        )


def _of_exchange(row: Row) -> Iterator[tuple[_Instrument, float]]:
    total_s, ttft_s, tokens = row["total_s"], row.get("ttft_s"), row.get("output_tokens")
    yield DURATION, total_s
    if row["stream"] and ttft_s is not None:
        yield FIRST_TOKEN, ttft_s
        if tokens is not None and tokens > 1 and total_s > ttft_s:
            yield PER_TOKEN, (total_s - ttft_s) / (tokens - 1)


def _of_attempt(row: Row, exchange: Row | None) -> Iterator[tuple[_Instrument, float]]:
    yield OPERATION, row["total_s"]
    if exchange is not None and exchange["stream"] and row.get("ttft_s") is not None:
        yield FIRST_CHUNK, row["ttft_s"]
    if row.get("cost_usd") is not None:
        yield COST, float(row["cost_usd"])
