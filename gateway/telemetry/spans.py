"""Spans of recorded exchanges: one of the call (SERVER), one of each upstream try (CLIENT). Pure.

In: the drain's records. Out: OpenTelemetry spans that have ended, with the ids that targets were told while they ran.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from gateway.telemetry import attributes
from gateway.telemetry.settings import Telemetry
from gateway.telemetry.trace_context import Trace, recalled, span_id

SCOPE = InstrumentationScope("sparkgate")
_UNSET, _ERROR = Status(StatusCode.UNSET), Status(StatusCode.ERROR)


def spans_of(record: Mapping[str, Any], telemetry: Telemetry, resource: Resource) -> Iterator[ReadableSpan]:
    """None for records of other kinds, and of traces that are not sampled."""
    if record["kind"] == "shadow":
        row = record["attempt"]
        exchange_id = UUID(row["exchange_id"])
        trace = recalled(record, exchange_id, telemetry.sample)
        if trace.is_sampled:
            yield _attempt(row, None, trace, span_id(exchange_id), telemetry, resource)
    elif record["kind"] == "exchange":
        row = record["exchange"]
        exchange_id = UUID(row["id"])
        trace = recalled(record, exchange_id, telemetry.sample)
        if not trace.is_sampled:
            return
        own = span_id(exchange_id)
        yield _exchange(row, trace, own, telemetry, resource)
        for attempt in record["attempts"]:
            yield _attempt(attempt, row, trace, own, telemetry, resource)


def _exchange(
    row: Mapping[str, Any], trace: Trace, own: int, telemetry: Telemetry, resource: Resource
) -> ReadableSpan:
    start_ns = _nanoseconds(row["started_at"])
    parent = None if trace.parent_id is None else _context(trace, trace.parent_id, is_remote=True)
    return ReadableSpan(
        name=f"{attributes.operation(row['endpoint'])} {row.get('model_asked') or ''}".rstrip(),
        context=_context(trace, own),
        parent=parent,
        resource=resource,
        attributes=attributes.of_exchange(row, telemetry),
        kind=SpanKind.SERVER,
        status=_ERROR if attributes.is_server_fault(row) else _UNSET,
        start_time=start_ns,
        end_time=start_ns + int(row["total_s"] * 1e9),
        instrumentation_scope=SCOPE,
    )


def _attempt(
    row: Mapping[str, Any],
    exchange: Mapping[str, Any] | None,
    trace: Trace,
    parent: int,
    telemetry: Telemetry,
    resource: Resource,
) -> ReadableSpan:
    start_ns = _nanoseconds(row["started_at"])
    said = attributes.of_attempt(row, exchange, telemetry)
    return ReadableSpan(
        name=f"{said[attributes.OPERATION]} {row['model']}",
        context=_context(trace, span_id(UUID(row["id"]))),
        parent=_context(trace, parent),
        resource=resource,
        attributes=said,
        kind=SpanKind.CLIENT,
        status=_ERROR if attributes.is_fault(row) else _UNSET,
        start_time=start_ns,
        end_time=start_ns + int(row["total_s"] * 1e9),
        instrumentation_scope=SCOPE,
    )


def _context(trace: Trace, span: int, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(trace.trace_id, span, is_remote, TraceFlags(trace.flags))


def _nanoseconds(iso: str) -> int:
    return int(datetime.fromisoformat(iso).timestamp() * 1e6) * 1000
