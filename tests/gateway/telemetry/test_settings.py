"""Whether telemetry is on, and where it goes: by sparkgate.yaml, and by OpenTelemetry's own variables."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.deployment import Deployment
from gateway.config.variables import TELEMETRY_VARIABLE
from gateway.telemetry.configured import telemetry_of
from gateway.telemetry.settings import METRICS, TRACES, Server, handed_over, metrics_every_s

URL = "http://collector:4318"


def of(env: dict[str, str] | None = None, **given: Any) -> Any:
    return telemetry_of(Deployment.model_validate(given), env or {})


@pytest.mark.parametrize(
    ("env", "signals"),
    [
        ({}, ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": URL}, (TRACES, METRICS)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": URL}, (TRACES,)),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": URL}, (METRICS,)),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": URL, "OTEL_TRACES_EXPORTER": "none"}, (METRICS,)),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": URL, "OTEL_SDK_DISABLED": "true"}, ()),
    ],
)
def test_opentelemetrys_variables_switch_it(env: dict[str, str], signals: tuple[str, ...]) -> None:
    for telemetry in (of(env), handed_over(env)):
        assert (telemetry.signals if telemetry else ()) == signals


@pytest.mark.parametrize(
    ("given", "every_s"),
    [("5000", 5.0), ("", 60.0), ("1m", 60.0), ("0", 60.0), ("-1", 60.0), ("nan", 60.0), ("1e300", 60.0)],
)
def test_an_interval_that_is_none_leaves_the_default(given: str, every_s: float) -> None:
    assert metrics_every_s({"OTEL_METRIC_EXPORT_INTERVAL": given}) == every_s
    assert metrics_every_s({}) == 60.0


def test_the_file_switches_it_on_and_says_where_to() -> None:
    given = {"otlp_endpoint": URL, "headers": {"x-key": "1"}, "sample": 0.1, "callers": False}
    telemetry = of(telemetry=given)
    assert (telemetry.endpoint, telemetry.headers, telemetry.sample) == (URL, {"x-key": "1"}, 0.1)
    assert telemetry.has_traces
    assert not telemetry.callers
    assert of({"OTEL_METRICS_EXPORTER": "none"}, telemetry=given).signals == (TRACES,)


def test_the_drain_gets_all_of_it() -> None:
    telemetry = of(telemetry={"otlp_endpoint": URL, "headers": {"x-key": "ä"}})
    assert handed_over({TELEMETRY_VARIABLE: telemetry.as_text()}) == telemetry


def test_targets_are_served_by_providers_as_the_conventions_call_them() -> None:
    openai = {"kind": "openai", "model": "m", "api_key": "k"}
    targets = [
        {**openai, "name": "openai", "base_url": "https://api.openai.com/v1"},
        {**openai, "name": "deepseek", "base_url": "https://api.deepseek.com/v1"},
        {**openai, "name": "vllm", "base_url": "http://10.0.0.5:8000"},
        {"kind": "anthropic", "name": "claude", "model": "m", "api_key": "k"},
        {"kind": "litellm", "name": "bedrock", "model": "bedrock/eu.m", "api_key": "k"},
    ]
    assert of(telemetry={"otlp_endpoint": URL}, targets=targets).servers == {
        "engine": Server("sparkgate", "127.0.0.1", 8090),
        "openai": Server("openai", "api.openai.com", 443),
        "deepseek": Server("deepseek", "api.deepseek.com", 443),
        "vllm": Server("openai", "10.0.0.5", 8000),
        "claude": Server("anthropic", "api.anthropic.com", 443),
        "bedrock": Server("aws.bedrock", None, None),
    }
