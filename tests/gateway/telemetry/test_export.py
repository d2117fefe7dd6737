"""Recorded exchanges as OpenTelemetry has them, received by a real collector over HTTP and decoded there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from typing import Any

import orjson
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from gateway.ledger.records import Attempt, Exchange, Usage, shadow_record, uuid7
from gateway.ledger.segments import decode_line, encode_line
from gateway.telemetry import export, figures
from gateway.telemetry.export import Exporter
from gateway.telemetry.exporting import export_all
from gateway.telemetry.settings import METRICS, TRACES, Server, Telemetry
from gateway.telemetry.trace_context import Trace
from tests.gateway.telemetry.collector import Collector, collecting, values

NOON = 1_795_262_400.0  # 2026-11-21 12:00:00 UTC
ALL = Telemetry(
    signals=(TRACES, METRICS),
    headers={"x-tenant": "blue"},
    servers={
        "a": Server("openai", "api.openai.com", 443),
        "engine": Server("sparkgate", "127.0.0.1", 8090),
    },
)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@contextmanager
def exporting(collector: Collector, **changes: Any) -> Iterator[Exporter]:
    exporter = Exporter(replace(ALL, endpoint=collector.url, **changes))
    yield exporter
    exporter.close()


def attempt(target: str = "engine", at: float = NOON, **changes: Any) -> Attempt:
    given: dict[str, Any] = {
        "id": uuid7(at),
        "http_status": 200,
        "ttft_s": 0.5,
        "total_s": 1.5,
        "usage": Usage(input_tokens=20, output_tokens=11, cached_tokens=4),
        "cost_nusd": 1_500,
    }
    return Attempt(target, f"{target}-model", at, **given | changes)


def exchange(*attempts: Attempt, **changes: Any) -> Exchange:
    """Streamed eleven tokens: the first after 0.5 s, one every 0.1 s from then."""
    plain: dict[str, Any] = {
        "model_asked": "auto",
        "shape": "short_chat",
        "status": 200,
        "finish_reason": "stop",
    }
    timing: dict[str, Any] = {"id": uuid7(NOON), "ttft_s": 0.5, "total_s": 1.5, "overhead_s": 0.001}
    values = plain | timing | {"task_id": "t-1", "response_model": "tiny-2", "attempts": list(attempts)}
    return Exchange("alice", "/v1/chat/completions", True, NOON, **values | changes)


def carried(record: dict[str, Any]) -> dict[str, Any]:
    """As the drain reads it from the spool."""
    found = decode_line(encode_line(record).rstrip(b"\n"))
    assert found is not None
    return found


def spans_of(collector: Collector) -> tuple[Span, list[Span]]:
    """The call's and its attempts'."""
    (server,) = [span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]
    clients = [span for span in collector.spans if span.kind == Span.SPAN_KIND_CLIENT]
    return server, sorted(clients, key=lambda span: span.start_time_unix_nano)


def test_a_call_is_a_span_and_so_is_each_of_its_tries(collector: Collector) -> None:
    failed = attempt(
        "a", result="http_error", http_status=429, error_code="rate_limited", usage=None, cost_nusd=0
    )
    answered = attempt(at=NOON + 0.2, engine={"queue_s": 0.1, "prefill_s": 0.2})
    call = exchange(failed, answered)
    with exporting(collector) as exporter:
        exporter.take([carried(call.record())])
    server, (first, second) = spans_of(collector)
    assert (server.name, first.name, second.name) == ("chat auto", "chat a-model", "chat engine-model")
    assert server.trace_id == call.id.bytes
    assert server.parent_span_id == b""
    assert {first.parent_span_id, second.parent_span_id} == {server.span_id} == {call.id.bytes[8:]}
    assert [first.span_id, second.span_id] == [failed.id.bytes[8:], answered.id.bytes[8:]]
    assert (server.start_time_unix_nano, server.end_time_unix_nano) == (
        int(NOON * 1e9),
        int((NOON + 1.5) * 1e9),
    )
    assert [span.status.code for span in (server, first, second)] == [
        Status.STATUS_CODE_UNSET,
        Status.STATUS_CODE_ERROR,
        Status.STATUS_CODE_UNSET,
    ]
    said = values(server.attributes)
    assert {name: said[name] for name in said if name.startswith("gen_ai.")} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "sparkgate",
        "gen_ai.request.model": "auto",
        "gen_ai.request.stream": True,
        "gen_ai.response.model": "tiny-2",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.time_to_first_chunk": 0.5,
        "gen_ai.usage.input_tokens": 20,
        "gen_ai.usage.output_tokens": 11,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.cache_creation.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": 0,
    }
    assert said["sparkgate.request.id"] == call.request_id
    assert (said["sparkgate.caller"], said["sparkgate.task.id"]) == ("alice", "t-1")
    assert "error.type" not in said
    failure, answer = values(first.attributes), values(second.attributes)
    assert (failure["error.type"], failure["http.response.status_code"]) == ("rate_limited", 429)
    assert (failure["gen_ai.provider.name"], failure["server.address"], failure["server.port"]) == (
        "openai",
        "api.openai.com",
        443,
    )
    assert (answer["sparkgate.engine.prefill_s"], answer["gen_ai.response.model"]) == (0.2, "tiny-2")
    assert answer["sparkgate.cost_usd"] == 1.5e-6


def test_spans_join_the_callers_trace(collector: Collector) -> None:
    call = exchange(attempt(), trace=Trace(0xABC, 0xDEF, 1, "vendor=1"))
    with exporting(collector, sample=0.0) as exporter:
        exporter.take([carried(call.record()), carried(exchange(attempt()).record())])
    server, (client,) = spans_of(collector)
    assert int.from_bytes(server.trace_id) == int.from_bytes(client.trace_id) == 0xABC
    assert int.from_bytes(server.parent_span_id) == 0xDEF


def test_a_shadow_is_a_try_beside_its_call(collector: Collector) -> None:
    call, tried = exchange(attempt()), attempt("a")
    with exporting(collector) as exporter:
        exporter.take([carried(shadow_record(tried, call.id, 1))])
    (span,) = collector.spans
    assert (span.trace_id, span.parent_span_id) == (call.id.bytes, call.id.bytes[8:])
    assert values(span.attributes)["sparkgate.shadow"] is True


@pytest.mark.parametrize(
    ("status", "error_code", "is_error", "error_type"),
    [
        (200, None, False, None),
        (400, "invalid_request", False, "invalid_request"),
        (499, "client_gone", False, "client_gone"),
        (502, "http_error", True, "http_error"),
        (200, "timeout_idle", True, "timeout_idle"),
        (200, "client_gone", False, "client_gone"),
    ],
)
def test_only_what_went_wrong_here_is_an_error(
    collector: Collector, status: int, error_code: str | None, is_error: bool, error_type: str | None
) -> None:
    with exporting(collector) as exporter:
        exporter.take([carried(exchange(attempt(), status=status, error_code=error_code).record())])
    server, _ = spans_of(collector)
    assert (server.status.code == Status.STATUS_CODE_ERROR) is is_error
    assert values(server.attributes).get("error.type") == error_type


def test_metrics_are_the_conventions_own_and_add_up(collector: Collector) -> None:
    slow = exchange(attempt(), ttft_s=3.0, total_s=4.0)
    lost = exchange(attempt("a", result="connect_error", usage=None, ttft_s=None, cost_nusd=None), status=502)
    with exporting(collector) as exporter:
        exporter.take(carried(each.record()) for each in (exchange(attempt()), slow, lost))
    found = collector.metrics
    assert {name: metric.unit for name, metric in found.items()} == {
        "gen_ai.server.request.duration": "s",
        "gen_ai.server.time_to_first_token": "s",
        "gen_ai.server.time_per_output_token": "s",
        "gen_ai.client.operation.duration": "s",
        "gen_ai.client.operation.time_to_first_chunk": "s",
        "gen_ai.client.token.usage": "{token}",
        "sparkgate.cost": "USD",
    }
    first = found["gen_ai.server.time_to_first_token"].histogram.data_points
    by_target = {values(point.attributes).get("sparkgate.target"): point for point in first}
    point = by_target["engine"]
    assert (point.count, point.sum, point.min, point.max) == (2, 3.5, 0.5, 3.0)
    assert [count for count in point.bucket_counts if count] == [1, 1]
    at = list(point.explicit_bounds)
    assert (point.bucket_counts[at.index(0.5)], point.bucket_counts[at.index(5.0)]) == (1, 1)
    (per_token,) = found["gen_ai.server.time_per_output_token"].histogram.data_points
    assert (per_token.count, per_token.sum) == (2, pytest.approx(0.2))
    durations = found["gen_ai.server.request.duration"].histogram.data_points
    assert {values(point.attributes).get("error.type"): point.count for point in durations} == {
        None: 2,
        "connect_error": 1,
    }
    tokens = found["gen_ai.client.token.usage"].histogram.data_points
    assert {values(point.attributes)["gen_ai.token.type"]: point.sum for point in tokens} == {
        "input": 40,
        "output": 22,
    }
    (cost,) = found["sparkgate.cost"].sum.data_points
    assert cost.as_double == pytest.approx(3e-6)
    assert found["sparkgate.cost"].sum.is_monotonic


def test_nothing_that_a_caller_wrote_labels_a_metric(collector: Collector) -> None:
    written: dict[str, Any] = {
        "model_asked": "free text",
        "task_id": "free text",
        "workflow": "free text",
        "caller": "free text",
    }
    call = exchange(attempt(error_message="free text"), status=500, error_code="free text")
    with exporting(collector) as exporter:
        exporter.take([carried(replace(call, **written).record())])
    assert "free text" not in "".join(map(str, collector.metrics.values()))


def test_attributes_beyond_the_most_are_summed_up_together(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "MOST_SETS", 2)
    with exporting(collector) as exporter:
        exporter.take(carried(exchange(attempt(), response_model=f"m-{i % 4}").record()) for i in range(12))
    points = collector.metrics["gen_ai.server.request.duration"].histogram.data_points
    assert {values(each.attributes).get("gen_ai.response.model"): each.count for each in points} == {
        "m-0": 3,
        "m-1": 3,
        None: 6,
    }
    assert [values(each.attributes) for each in points if each.count == 6] == [{"otel.metric.overflow": True}]


def test_no_text_of_a_prompt_or_an_error_leaves_nor_a_caller_that_is_not_to_be_named(
    collector: Collector,
) -> None:
    failed = attempt(result="http_error", error_message="secret words of a prompt")
    with exporting(collector, callers=False) as exporter:
        exporter.take([carried(exchange(failed, decision={"reason": "secret words"}).record())])
    sent = "".join(map(str, collector.spans))
    assert "sparkgate.shape" in sent
    assert "secret words" not in sent
    assert "alice" not in sent


def test_the_collector_gets_the_headers_and_the_services_name(collector: Collector) -> None:
    with exporting(collector, service_name="edge") as exporter:
        exporter.take([carried(exchange(attempt()).record())])
    assert {headers["x-tenant"] for headers in collector.headers} == {"blue"}
    assert {resource["service.name"] for resource in collector.resources} == {"edge"}


def test_other_records_and_odd_ones_are_passed_over(collector: Collector) -> None:
    odd = carried(exchange(attempt()).record()) | {"trace": {"id": "no number"}}
    with exporting(collector) as exporter:
        exporter.take([{"kind": "price", "price": {}}, odd, carried(exchange(attempt()).record())])
    assert len([span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]) == 1


def test_a_batch_that_was_cut_off_is_passed_over_and_the_others_are_sent(collector: Collector) -> None:
    line = orjson.dumps([carried(exchange(attempt()).record())]) + b"\n"
    with exporting(collector) as exporter:
        export_all(BytesIO(line + line[:-9]), exporter)
    assert len(collector.spans) == 2


def test_a_collector_that_fails_costs_nothing_but_its_spans(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "CLOSE_WITHIN_S", 0.5)
    collector.status = 400
    with exporting(collector) as exporter:
        exporter.take([carried(exchange(attempt()).record())])
    assert (exporter.made, exporter.sent, exporter.dropped) == (2, 0, 0)


def test_what_was_sent_is_counted(collector: Collector) -> None:
    with exporting(collector) as exporter:
        exporter.take([carried(exchange(attempt(), attempt()).record())])
    assert (exporter.made, exporter.sent, exporter.dropped) == (3, 3, 0)


def test_spans_for_which_there_is_no_room_are_not_made_and_metrics_are(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "QUEUE", 512)
    records = [carried(exchange(attempt()).record())] * 2000
    with exporting(collector) as exporter:
        collector.hold.clear()
        exporter.take(records)
        collector.hold.set()
    assert exporter.dropped > 0
    assert exporter.made + exporter.dropped == 4000
    assert exporter.sent == exporter.made == len(collector.spans)
    (durations,) = collector.metrics["gen_ai.server.request.duration"].histogram.data_points
    assert durations.count == 2000
