"""`Telemetry`: where OpenTelemetry's data goes, and what it may say; None = it is off.

In: what the supervisor hands over in `SPARKGATE_TELEMETRY`, and OpenTelemetry's own environment variables, of which
the exporters read more by themselves (certificates, compression, time limits). Knows no configuration file.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import orjson

from gateway.config.variables import TELEMETRY_VARIABLE

TRACES, METRICS = "TRACES", "METRICS"
METRICS_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """Who serves a target, and where. `provider` by OpenTelemetry's names."""

    provider: str
    address: str | None = None
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Telemetry:
    """`endpoint` None = as the environment says. `signals`: of `TRACES` and `METRICS`, those to export."""

    endpoint: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    service_name: str | None = None
    sample: float = 1.0
    callers: bool = True
    servers: Mapping[str, Server] = field(default_factory=dict)
    signals: tuple[str, ...] = ()

    @property
    def has_traces(self) -> bool:
        return TRACES in self.signals

    def as_text(self) -> str:
        """For `TELEMETRY_VARIABLE`."""
        return orjson.dumps(asdict(self)).decode()


def handed_over(env: Mapping[str, str]) -> Telemetry | None:
    """As the supervisor says; without its word, as OpenTelemetry's variables say."""
    text = env.get(TELEMETRY_VARIABLE)
    if not text:
        return switched(Telemetry(), env)
    value: dict[str, Any] = orjson.loads(text)
    servers = {name: Server(**server) for name, server in value["servers"].items()}
    return Telemetry(**value | {"servers": servers, "signals": tuple(value["signals"])})


def switched(telemetry: Telemetry, env: Mapping[str, str]) -> Telemetry | None:
    """With the signals that are on: those that have an endpoint and are not switched off."""
    if env.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    signals = tuple(signal for signal in (TRACES, METRICS) if _is_on(signal, telemetry, env))
    return replace(telemetry, signals=signals) if signals else None


def _is_on(signal: str, telemetry: Telemetry, env: Mapping[str, str]) -> bool:
    if env.get(f"OTEL_{signal}_EXPORTER", "").lower() == "none":
        return False
    given = (f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return telemetry.endpoint is not None or any(env.get(name) for name in given)


def metrics_every_s(env: Mapping[str, str]) -> float:
    """The default stands in for what is no number of milliseconds, as OpenTelemetry wants it."""
    try:
        every_s = float(env.get("OTEL_METRIC_EXPORT_INTERVAL", "")) / 1e3
    except ValueError:
        return METRICS_EVERY_S
    return every_s if 0 < every_s < threading.TIMEOUT_MAX else METRICS_EVERY_S
