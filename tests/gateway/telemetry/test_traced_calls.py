"""From a caller's `traceparent` through gateway, target and drain to a collector: one trace, whole."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from gateway.config.deployment import Deployment
from gateway.config.variables import DATABASE_URL_VARIABLE, TELEMETRY_VARIABLE
from gateway.telemetry.configured import telemetry_of
from tests.fakes import error
from tests.gateway.conftest import HELLO, Gateway, Run, eventually
from tests.gateway.telemetry.collector import Collector, collecting, values

Prepare = Callable[..., Run]
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}
SHADOWED = "version: 1\nshapes: {short_chat: {candidates: [a], shadow: {target: b, share: 1.0}}}\n"


def drain(gateway: Gateway, database_url: str, collector: Collector) -> None:
    """The drain as a process of its own, told of telemetry as the supervisor tells it."""
    telemetry = telemetry_of(Deployment.model_validate({"telemetry": {"otlp_endpoint": collector.url}}), {})
    assert telemetry is not None
    told = {DATABASE_URL_VARIABLE: database_url, TELEMETRY_VARIABLE: telemetry.as_text()}
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-m", "gateway.ledger.drain", "--once"]
    command += ["--spool", str(gateway.data_dir / "spool")]
    subprocess.run(command, cwd=root, env=os.environ | told, check=True, timeout=120)


async def drained(gateway: Gateway, database_url: str, collector: Collector) -> list[Span]:
    """Every span, in the order of their beginnings."""
    await eventually(lambda: bool(list(gateway.data_dir.glob("spool/*.ready"))))
    await asyncio.to_thread(drain, gateway, database_url, collector)
    return sorted(collector.spans, key=lambda span: (span.start_time_unix_nano, -span.end_time_unix_nano))


def test_one_trace_from_the_caller_to_the_target(with_gateway: Prepare, clean_database_url: str) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [error(500)]
        _, headers, _ = await gateway.post({**HELLO, "stream": True}, **CALLER)
        call, failed, answered = await drained(gateway, clean_database_url, collector)
        assert [span.trace_id.hex() for span in (call, failed, answered)] == [TRACE] * 3
        assert call.parent_span_id.hex() == SPAN
        assert failed.parent_span_id == answered.parent_span_id == call.span_id
        seen = [gateway.fakes[name].headers[0] for name in ("a", "b")]
        told = [f"00-{TRACE}-{span.span_id.hex()}-01" for span in (failed, answered)]
        assert [headers["traceparent"] for headers in seen] == told
        assert [headers["tracestate"] for headers in seen] == ["vendor=1"] * 2
        assert values(call.attributes)["sparkgate.request.id"] == headers["x-request-id"]
        assert values(call.attributes)["sparkgate.caller"] == "suite"
        assert collector.metrics["gen_ai.server.time_to_first_token"].histogram.data_points[0].count == 1

    with collecting() as collector:
        policy = "version: 1\nshapes: {short_chat: {candidates: [a, b]}}\ndefaults: {explore: 0}\n"
        telemetry = {"otlp_endpoint": collector.url}
        with_gateway(policy, ("a", "b"), telemetry=telemetry)(test)


def test_without_a_callers_trace_the_request_id_names_it(
    with_gateway: Prepare, clean_database_url: str
) -> None:
    async def test(gateway: Gateway) -> None:
        _, headers, _ = await gateway.post(HELLO)
        await eventually(lambda: bool(gateway.fakes["b"].headers))
        await eventually(lambda: {record["kind"] for record in gateway.records()} >= {"exchange", "shadow"})
        call, answered, shadow = await drained(gateway, clean_database_url, collector)
        assert {f"req_{span.trace_id.hex()}" for span in (call, answered, shadow)} == {
            headers["x-request-id"]
        }
        assert (call.parent_span_id, shadow.parent_span_id) == (b"", call.span_id)
        told = [gateway.fakes[name].headers[0]["traceparent"] for name in ("a", "b")]
        trace = call.trace_id.hex()
        assert told == [f"00-{trace}-{span.span_id.hex()}-01" for span in (answered, shadow)]

    with collecting() as collector:
        with_gateway(SHADOWED, ("a", "b"), telemetry={"otlp_endpoint": collector.url})(test)


def test_where_telemetry_is_off_a_trace_passes_as_it_came(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        await gateway.post(HELLO, **CALLER)
        await gateway.post(HELLO)
        with_trace, without = gateway.fakes["a"].headers
        assert {name: with_trace[name] for name in CALLER} == CALLER
        assert not CALLER.keys() & without.keys()
        assert all("trace" not in record for record in gateway.exchanges())

    with_gateway()(test)
