"""`POST /v1/chat/completions` and `/v1/completions`: from an OpenAI request to a `Call`, and how it reads upstream.

In: headers and the decoded body. Out: a `Call`. Only what routing needs is looked at; everything else, known or
not, goes to the upstream as it came. Our own names (metadata keys, headers, the `sparkgate` field) are taken out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.dispatch.call import Call
from gateway.wire.errors import BadRequest
from router.catalog import Target
from router.query import Query
from router.shapes import SHAPES

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
OUR_METADATA = ("task_id", "workflow", "task_shape", "slo_ttft_ms", "slo_tpot_ms", "deadline_ms")
PASSED_HEADERS = ("traceparent", "tracestate")  # W3C trace context
MAX_ID_CHARS = 256  # task ids and workflows are indexed
BYTES_PER_TOKEN = 4  # a rule of thumb for routing and context checks, never for money
TOKENS_PER_MESSAGE = 4


def completions_call(path: str, headers: Mapping[str, str], body: dict[str, Any], caller: str) -> Call:
    """Raises `BadRequest` for what no upstream could make sense of."""
    _check(path, body)
    given = body.get("metadata") if isinstance(body.get("metadata"), dict) else {}
    metadata = {key: value for key, value in (given or {}).items() if isinstance(value, str)}
    ours = _our_fields(headers, metadata)
    options = body.get("stream_options")
    is_stream = body.get("stream") is True
    return Call(
        query=_query(path, headers, body, caller, metadata, ours),
        path=path,
        body_for=_Bodies(body, is_stream),
        wants_usage=isinstance(options, dict) and options.get("include_usage") is True,
        pass_headers={name: headers[name] for name in PASSED_HEADERS if name in headers},
    )


def _check(path: str, body: dict[str, Any]) -> None:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("'model' must be a non-empty string, e.g. \"auto\"", param="model")
    if not isinstance(body.get("stream", False), bool | None):
        raise BadRequest("'stream' must be true or false", param="stream")
    if path == COMPLETIONS:
        if "prompt" not in body:
            raise BadRequest("'prompt' is missing", param="prompt")
        return
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("'messages' must be a non-empty list", param="messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRequest(f"messages[{index}] must be an object with a 'role'", param=f"messages[{index}]")


def _our_fields(headers: Mapping[str, str], metadata: Mapping[str, str]) -> dict[str, str]:
    """Our settings of this call: a header `X-Task-Id`, or metadata `task_id`; the header wins."""
    pairs = {name: headers.get(f"x-{name.replace('_', '-')}") or metadata.get(name) for name in OUR_METADATA}
    given = {name: value for name, value in pairs.items() if value}
    for name, value in given.items():
        if len(value) > MAX_ID_CHARS:
            raise BadRequest(
                f"{name} has {len(value)} characters; at most {MAX_ID_CHARS} are kept", param=name
            )
    return given


def _query(
    path: str,
    headers: Mapping[str, str],
    body: dict[str, Any],
    caller: str,
    metadata: dict[str, str],
    ours: dict[str, str],
) -> Query:
    messages = body.get("messages") if path == CHAT else None
    messages = messages if isinstance(messages, list) else []
    shape = ours.get("task_shape")
    if shape is not None and shape not in SHAPES:
        raise BadRequest(
            f"'{shape}' is not a task shape; there are {', '.join(SHAPES)}", param="X-Task-Shape"
        )
    text_bytes = sum(map(_text_bytes, messages)) if messages else _content_bytes(body.get("prompt"))
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    return Query(
        endpoint=path,
        model=body["model"],
        caller=caller,
        stream=body.get("stream") is True,
        headers=headers,
        metadata=metadata,
        workflow=ours.get("workflow"),
        task_id=ours.get("task_id"),
        declared_shape=shape,
        input_tokens=text_bytes // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE * len(messages),
        max_output_tokens=limit if isinstance(limit, int) and limit > 0 else None,
        temperature=_number(body.get("temperature")),
        message_count=len(messages),
        has_tools=bool(body.get("tools") or body.get("functions")),
        has_tool_messages=any(m.get("role") in ("tool", "function") or m.get("tool_calls") for m in messages),
        has_images=any(_has_image(message.get("content")) for message in messages),
        wants_json=_wants_json(body.get("response_format")),
        slo_ttft_s=_hint_s(ours, "slo_ttft_ms"),
        slo_tpot_s=_hint_s(ours, "slo_tpot_ms"),
        deadline_s=_hint_s(ours, "deadline_ms"),
    )


def _hint_s(ours: Mapping[str, str], name: str) -> float | None:
    if name not in ours:
        return None
    try:
        milliseconds = float(ours[name])
    except ValueError:
        milliseconds = 0.0
    if not 0 < milliseconds < float("inf"):
        header = f"X-{name.replace('_', '-').title()}"
        raise BadRequest(
            f"{header} must be a positive number of milliseconds, not '{ours[name]}'", param=header
        )
    return milliseconds / 1e3


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _text_bytes(message: dict[str, Any]) -> int:
    return _content_bytes(message.get("content"))


def _content_bytes(content: Any) -> int:
    """UTF-8 bytes of text; parts that are not text (images, audio) count nothing."""
    if isinstance(content, str):
        return len(content.encode("utf-8", "replace"))
    if isinstance(content, list):
        return sum(_content_bytes(part) for part in _texts(content))
    return 0


def _texts(parts: Iterable[Any]) -> Iterable[Any]:
    return (part.get("text") if isinstance(part, dict) else part for part in parts)


def _has_image(content: Any) -> bool:
    return isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") in ("image_url", "input_image", "image")
        for part in content
    )


def _wants_json(response_format: Any) -> bool:
    return isinstance(response_format, dict) and response_format.get("type") in ("json_object", "json_schema")


class _Bodies:
    """The request body as each target is to get it."""

    def __init__(self, body: dict[str, Any], is_stream: bool) -> None:
        self._body, self._is_stream = body, is_stream

    def __call__(self, target: Target) -> dict[str, Any]:
        body = {**self._body, "model": target.model}
        if target.kind != "engine":
            body.pop("sparkgate", None)
        _strip_metadata(body)
        if self._is_stream:
            options = body.get("stream_options")
            body["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
        return body


def _strip_metadata(body: dict[str, Any]) -> None:
    """Our keys go; an emptied `metadata` goes too, since providers refuse what they do not know."""
    metadata = body.get("metadata")
    if not isinstance(metadata, dict):
        return
    kept = {key: value for key, value in metadata.items() if key not in OUR_METADATA}
    if kept:
        body["metadata"] = kept
    else:
        del body["metadata"]
