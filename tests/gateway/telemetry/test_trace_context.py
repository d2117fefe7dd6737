"""Trace context as the W3C has it: what is taken from a caller, what targets are told, what the record keeps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ledger.records import uuid7
from gateway.telemetry.trace_context import Trace, begun, recalled, span_id, trace_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_callers_trace_goes_on_with_the_attempts_span() -> None:
    attempt = uuid7()
    trace = trace_of({"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=1"}, uuid7(), sample=0.0)
    told = trace.headers(attempt)
    assert told == {"traceparent": f"00-{TRACE}-{attempt.hex[16:]}-01", "tracestate": "a=1"}
    assert (trace.is_sampled, trace.parent_id) == (True, int(SPAN, 16))


def test_a_caller_may_say_that_its_trace_is_not_kept() -> None:
    trace = trace_of({"traceparent": f"00-{TRACE}-{SPAN}-00"}, uuid7(), sample=1.0)
    assert not trace.is_sampled
    assert trace.headers(uuid7())["traceparent"].endswith("-00")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "garbage",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
    ],
)
def test_a_malformed_header_begins_a_trace_of_our_own(header: str) -> None:
    exchange = uuid7()
    trace = trace_of({"traceparent": header, "tracestate": "a=1"}, exchange, sample=1.0)
    assert (trace.trace_id, trace.parent_id, trace.is_sampled) == (exchange.int, None, True)
    assert "tracestate" not in trace.headers(uuid7())


def test_a_later_version_of_the_standard_is_read_as_far_as_it_is_known() -> None:
    trace = trace_of({"traceparent": f"01-{TRACE}-{SPAN}-01-what-comes"}, uuid7(), sample=1.0)
    assert trace.trace_id == int(TRACE, 16)
    assert trace.headers(uuid7())["traceparent"].startswith("00-")


@given(st.integers(0, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 255))
def test_the_record_keeps_what_spans_need(trace_id: int, parent_id: int, flags: int) -> None:
    trace = Trace(trace_id, parent_id, flags)
    assert recalled(trace.recorded(), uuid7(), sample=0.5) == trace


def test_of_a_trace_that_begins_here_the_record_needs_nothing() -> None:
    exchanges = [uuid7() for _ in range(4000)]
    traces = [begun(exchange, 0.25) for exchange in exchanges]
    assert all(trace.recorded() == {} for trace in traces)
    assert [recalled({}, exchange, 0.25) for exchange in exchanges] == traces
    assert 850 < sum(trace.is_sampled for trace in traces) < 1150  # six standard deviations around 1000


def test_spans_of_one_millisecond_differ() -> None:
    keys = {span_id(uuid7(1_700_000_000.0)) for _ in range(1000)}
    assert len(keys) == 1000
    assert 0 not in keys
