"""What spans and metrics say of an exchange or attempt, by the names of OpenTelemetry's GenAI conventions.

In: rows of the drain's records. Out: attributes. What the conventions have no name for begins with `sparkgate.`. No
text of a prompt, an answer or an upstream's error is among them. Metrics have only the names of targets, models, shapes
and kinds of failure, never what a caller wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.telemetry.settings import Server, Telemetry

Row = Mapping[str, Any]
Attributes = dict[str, Any]

OPERATION = "gen_ai.operation.name"
ERROR_TYPE = "error.type"
SHADOW = "sparkgate.shadow"  # a try of a target on trial, whose answer nobody got
_OPERATIONS = {"/v1/completions": "text_completion", "/v1/embeddings": "embeddings"}  # any other is a chat
_NOBODY = Server("sparkgate")
_NO_FAULT = frozenset({"ok", "client_gone", "hedge_lost"})  # of the target, as far as anyone can tell
_USAGE = {
    "gen_ai.usage.input_tokens": "input_tokens",
    "gen_ai.usage.output_tokens": "output_tokens",
    "gen_ai.usage.cache_read.input_tokens": "cached_tokens",
    "gen_ai.usage.cache_creation.input_tokens": "cache_write_tokens",
    "gen_ai.usage.reasoning.output_tokens": "reasoning_tokens",
}
_EXCHANGE = {
    "gen_ai.request.model": "model_asked",
    "gen_ai.response.model": "response_model",
    "gen_ai.response.time_to_first_chunk": "ttft_s",
    "http.route": "endpoint",
    "http.response.status_code": "status",
    "sparkgate.task.id": "task_id",
    "sparkgate.workflow": "workflow",
    "sparkgate.shape": "shape",
    "sparkgate.shape_source": "shape_source",
    "sparkgate.policy": "policy_hash",
    "sparkgate.target": "target",
    "sparkgate.model": "model",
    "sparkgate.attempts": "attempts",
    "sparkgate.overhead_s": "overhead_s",
    "sparkgate.timed_out": "timed_out",
    "sparkgate.cache": "cache",
} | _USAGE
_ATTEMPT = {
    "gen_ai.request.model": "model",
    "gen_ai.response.time_to_first_chunk": "ttft_s",
    "http.response.status_code": "http_status",
    "sparkgate.target": "target",
    "sparkgate.ordinal": "ordinal",
    "sparkgate.result": "result",
    "sparkgate.upstream_request_id": "upstream_request_id",
} | _USAGE


def operation(endpoint: str) -> str:
    return _OPERATIONS.get(endpoint, "chat")


def of_exchange(row: Row, telemetry: Telemetry) -> Attributes:
    """For the span of the whole call."""
    said: Attributes = {
        OPERATION: operation(row["endpoint"]),
        "gen_ai.provider.name": _server(row.get("target"), telemetry).provider,
        "http.request.method": "POST",
        "sparkgate.request.id": f"req_{row['id'].replace('-', '')}",
    }
    _add(said, row, _EXCHANGE)
    _add_common(said, row, row["stream"])
    if telemetry.callers:
        said["sparkgate.caller"] = row["caller"]
    if row.get("finish_reason"):
        said["gen_ai.response.finish_reasons"] = (row["finish_reason"],)
    if failed := _error_code(row):
        said[ERROR_TYPE] = failed
    return said


def of_attempt(row: Row, exchange: Row | None, telemetry: Telemetry) -> Attributes:
    """For the span of one upstream try. `exchange` None: a shadow's, beside an exchange that was recorded before."""
    server = _server(row["target"], telemetry)
    said: Attributes = {
        OPERATION: operation(exchange["endpoint"] if exchange else ""),
        "gen_ai.provider.name": server.provider,
    }
    _add(said, row, _ATTEMPT)
    _add_common(said, row, exchange is not None and exchange["stream"])
    if server.address is not None:
        said["server.address"], said["server.port"] = server.address, server.port
    if exchange is None:
        said[SHADOW] = True
    elif row["result"] == "ok" and exchange.get("response_model"):
        said["gen_ai.response.model"] = exchange["response_model"]
    if row["result"] != "ok":
        said[ERROR_TYPE] = row.get("error_code") or row["result"]
    for name, value in (row.get("engine") or {}).items():
        if isinstance(value, int | float):
            said[f"sparkgate.engine.{name}"] = value
    return said


def is_fault(attempt: Row) -> bool:
    """Whether the try went wrong, rather than came to nothing because somebody lost interest."""
    return attempt["result"] not in _NO_FAULT


def is_server_fault(exchange: Row) -> bool:
    """A caller's own mistake, or its departure, is no fault of ours."""
    if exchange.get("error_code") == "client_gone":
        return False
    status: int = exchange["status"]
    return status >= 500 or (status < 400 and exchange.get("error_code") is not None)


def measured_exchange(row: Row, attempts: list[Row], telemetry: Telemetry) -> Attributes:
    """For metrics of whole calls."""
    server = _server(row.get("target"), telemetry)
    said: Attributes = {
        OPERATION: operation(row["endpoint"]),
        "gen_ai.provider.name": server.provider,
        "sparkgate.shape": row.get("shape") or "general",
    }
    if row.get("target") is not None:
        said |= {"sparkgate.target": row["target"], "gen_ai.request.model": row["model"]}
    if row.get("response_model") is not None:
        said["gen_ai.response.model"] = row["response_model"]
    if _error_code(row) is not None:
        failed = next((each["result"] for each in reversed(attempts) if each["result"] != "ok"), None)
        said[ERROR_TYPE] = failed or str(row["status"])
    return said


def measured_attempt(row: Row, exchange: Row | None, telemetry: Telemetry) -> Attributes:
    """For metrics of upstream tries."""
    server = _server(row["target"], telemetry)
    said: Attributes = {
        OPERATION: operation(exchange["endpoint"] if exchange else ""),
        "gen_ai.provider.name": server.provider,
        "gen_ai.request.model": row["model"],
        "sparkgate.target": row["target"],
    }
    if server.address is not None:
        said["server.address"], said["server.port"] = server.address, server.port
    if row["result"] != "ok":
        said[ERROR_TYPE] = row["result"]
    if exchange is None:
        said[SHADOW] = True
    return said


def _error_code(row: Row) -> str | None:
    if row.get("error_code") is not None:
        return str(row["error_code"])
    return str(row["status"]) if row["status"] >= 400 else None


def _server(target: str | None, telemetry: Telemetry) -> Server:
    return telemetry.servers.get(target or "", _NOBODY)


def _add(said: Attributes, row: Row, names: Mapping[str, str]) -> None:
    for name, column in names.items():
        value = row.get(column)
        if value is not None:
            said[name] = value


def _add_common(said: Attributes, row: Row, stream: bool) -> None:
    if stream:
        said["gen_ai.request.stream"] = True
    if row.get("cost_usd") is not None:
        said["sparkgate.cost_usd"] = float(row["cost_usd"])
