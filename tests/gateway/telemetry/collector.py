"""A collector of OpenTelemetry on a real port: takes OTLP over HTTP, decodes its protobufs and keeps what they say."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass
class Collector:
    """What came in. `status`: its answer to all; it gives none while `hold` is not set."""

    url: str = ""
    status: int = 200
    hold: threading.Event = field(default_factory=threading.Event)
    spans: list[Span] = field(default_factory=list)
    metrics: dict[str, Metric] = field(default_factory=dict)  # the newest by name
    resources: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def take(self, path: str, raw: bytes) -> bytes:
        """The answer's body."""
        if path == "/v1/traces":
            for of_resource in ExportTraceServiceRequest.FromString(raw).resource_spans:
                self.resources.append(values(of_resource.resource.attributes))
                self.spans += [span for scope in of_resource.scope_spans for span in scope.spans]
            return bytes(ExportTraceServiceResponse().SerializeToString())
        assert path == "/v1/metrics"
        for measured in ExportMetricsServiceRequest.FromString(raw).resource_metrics:
            self.resources.append(values(measured.resource.attributes))
            self.metrics |= {
                metric.name: metric for scope in measured.scope_metrics for metric in scope.metrics
            }
        return bytes(ExportMetricsServiceResponse().SerializeToString())


def values(attributes: Any) -> dict[str, Any]:
    """Attributes as a dict."""

    def value(given: AnyValue) -> Any:
        which = given.WhichOneof("value")
        if which == "array_value":
            return [value(item) for item in given.array_value.values]
        return getattr(given, which or "", None)

    listed: list[KeyValue] = list(attributes)
    return {pair.key: value(pair.value) for pair in listed}


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    collector.hold.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            collector.hold.wait()
            collector.headers.append({name.lower(): text for name, text in self.headers.items()})
            if self.headers.get("Content-Encoding") == "gzip":
                raw = gzip.decompress(raw)
            answer = collector.take(self.path, raw) if collector.status == 200 else b""
            self.send_response(collector.status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
