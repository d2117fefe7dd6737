"""`Exporter`: what the drain has written goes to an OpenTelemetry collector, over OTLP/HTTP.

In: records, which are made into spans and added up; sending is other threads' and may fail without anybody waiting.
Of exchanges that come while `QUEUE` spans wait for a slow collector none are made; metrics are sums, of which nothing
is lost. Importing this module needs `sparkgate[otel]`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

from gateway.telemetry.figures import Figures
from gateway.telemetry.settings import METRICS, TRACES, Telemetry, metrics_every_s
from gateway.telemetry.spans import spans_of

log = logging.getLogger("sparkgate.telemetry")
QUEUE = 16_384  # spans
CLOSE_WITHIN_S = 5.0


class Exporter:
    """`take` what was written; `close` sends what is left, as long as that is quick."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.made = self.sent = self.dropped = 0  # spans
        self._handed_over = 0
        self._telemetry = telemetry
        name = telemetry.service_name or os.environ.get("OTEL_SERVICE_NAME") or "sparkgate"
        self._resource = Resource.create({SERVICE_NAME: name, SERVICE_VERSION: version("sparkgate")})
        self._figures = Figures(telemetry, self._resource, time.time_ns())
        self._spans = self._span_processor() if TRACES in telemetry.signals else None
        self._metrics = self._metric_exporter() if METRICS in telemetry.signals else None
        self._stop, self._is_failing = threading.Event(), False
        if self._metrics is not None:
            threading.Thread(target=self._send_metrics, args=(self._metrics,), daemon=True).start()

    def take(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Never raises, never waits."""
        for record in records:
            try:
                self._take(record)
            except Exception as error:  # a record that the ledger took may be one that nobody here foresaw
                if not self._is_failing:
                    log.exception("a record is not exported: %s", error)
                self._is_failing = True

    def close(self) -> None:
        """Waits for at most CLOSE_WITHIN_S."""
        closing = threading.Thread(target=self._close, daemon=True)
        closing.start()
        closing.join(CLOSE_WITHIN_S)

    def _take(self, record: Mapping[str, Any]) -> None:
        if self._metrics is not None:
            self._figures.add(record)
        if self._spans is None:
            return
        spans = list(spans_of(record, self._telemetry, self._resource))
        if self.made - self._handed_over + len(spans) > QUEUE:
            self.dropped += len(spans)
            return
        self.made += len(spans)
        for span in spans:
            self._spans.on_end(span)

    def _close(self) -> None:
        self._stop.set()
        if self._spans is not None:
            self._spans.shutdown()  # type: ignore[no-untyped-call]
        if self._metrics is not None:
            self._metrics.export(self._figures.read(time.time_ns()))
            self._metrics.shutdown()

    def _span_processor(self) -> BatchSpanProcessor:
        exporter = _Counting(self._url("traces"), headers=self._headers(), on_handled=self._count)
        return BatchSpanProcessor(exporter, max_queue_size=QUEUE)

    def _metric_exporter(self) -> OTLPMetricExporter:
        return OTLPMetricExporter(self._url("metrics"), headers=self._headers())

    def _url(self, signal: str) -> str | None:
        """None = as OpenTelemetry's variables say."""
        endpoint = self._telemetry.endpoint
        return None if endpoint is None else f"{endpoint.rstrip('/')}/v1/{signal}"

    def _headers(self) -> dict[str, str] | None:
        return dict(self._telemetry.headers) or None

    def _count(self, spans: int, was_sent: bool) -> None:
        self._handed_over += spans
        self.sent += spans if was_sent else 0

    def _send_metrics(self, exporter: OTLPMetricExporter) -> None:
        """The exporter tries again by itself, then logs what went wrong."""
        while not self._stop.wait(metrics_every_s(os.environ)):
            exporter.export(self._figures.read(time.time_ns()))


class _Counting(OTLPSpanExporter):
    """Tells how many spans it had, and whether the collector took them."""

    def __init__(
        self, url: str | None, headers: dict[str, str] | None, on_handled: Callable[[int, bool], None]
    ) -> None:
        super().__init__(url, headers=headers)
        self._on_handled = on_handled

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        self._on_handled(len(spans), result is SpanExportResult.SUCCESS)
        return result
