"""What all surfaces read from a call, whatever its format: our own settings, sizes, and the body for a target.

In: headers and the decoded body. Out: values for a `Query`, and bytes. Our own names (metadata keys, headers, the
`sparkgate` field) are taken out of what goes upstream; everything else, known or not, goes as it came.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

import orjson

from gateway.dispatch.call import ErrorForm
from gateway.surfaces.homes import NO_HOMES, ResponseHomes
from gateway.surfaces.wording import inferred_shape
from gateway.telemetry.trace_context import TRACE_HEADERS
from gateway.wire.errors import BadRequest, error_event
from gateway.wire.fields import MAX_DEPTH
from router.catalog import Target
from router.policy import ROLES
from router.query import Query
from router.shapes import SHAPES

OUR_METADATA = ("task_id", "workflow", "task_shape", "slo_ttft_ms", "slo_tpot_ms", "deadline_ms", "role")
_HEADERS = {f"x-{name.replace('_', '-')}": name for name in OUR_METADATA[:-1]} | {"x-task-role": "role"}
MAX_ID_CHARS = 256  # task ids and workflows are indexed
BYTES_PER_TOKEN = 4  # a rule of thumb for routing and context checks, never for money
TOKENS_PER_MESSAGE = 4
MAX_VALUES = 1_000_000  # commas: each may be an object of a hundred times its bytes
_TEXT_KEYS = ("text", "content", "output", "arguments", "function")  # of parts, items and tool calls
_MODEL = re.compile(rb'"model"\s*:\s*"((?:[^"\\]|\\.)*)"')
_ESCAPED_LETTER = b"\\u006"  # which begins the escapes of all letters in "model"
_NOT_IN_FINGERPRINT = frozenset(
    {"metadata", "user", "sparkgate", "store", "safety_identifier", "prompt_cache_key"}
)

OPENAI_ERRORS = ErrorForm(
    body=lambda error: orjson.dumps(error.value()), event=lambda error: error_event(error.value())
)


@dataclass(slots=True)
class Asked:
    """One request as every surface starts from it. `homes`: what earlier answers left behind, and where."""

    path: str
    headers: Mapping[str, str]
    raw: bytes
    body: dict[str, Any]
    caller: str
    query: str = ""  # behind the path's question mark
    homes: ResponseHomes = NO_HOMES

    @property
    def native_path(self) -> str:
        """For a target that speaks the caller's API."""
        return f"{self.path}?{self.query}" if self.query else self.path


@dataclass(slots=True)
class Settings:
    """What a caller tells us, and no upstream."""

    task_id: str | None = None
    workflow: str | None = None
    shape: str | None = None
    role: str | None = None
    slo_ttft_s: float | None = None
    slo_tpot_s: float | None = None
    deadline_s: float | None = None


NO_SETTINGS = Settings()


def decoded(raw: bytes) -> dict[str, Any]:
    """Raises `BadRequest`."""
    if len(raw) > MAX_VALUES and raw.count(b",") > MAX_VALUES:
        raise BadRequest(f"the body has more than {MAX_VALUES} values", code="invalid_json")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object", code="invalid_json")
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH:  # else it cannot be that deep
        encoded(value)
    return value


def check(body: dict[str, Any]) -> None:
    """What holds for every surface. Raises `BadRequest`."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("'model' must be a non-empty string, e.g. \"auto\"", param="model")
    if not isinstance(body.get("stream", False), bool | None):
        raise BadRequest("'stream' must be true or false", param="stream")


def metadata_of(body: dict[str, Any]) -> dict[str, str]:
    given = body.get("metadata")
    if not isinstance(given, dict):
        return {}
    return {key: value for key, value in given.items() if isinstance(value, str)}


def settings_of(headers: Mapping[str, str], metadata: Mapping[str, str]) -> Settings:
    """A header `X-Task-Id`, or metadata `task_id`; the header wins. Raises `BadRequest`."""
    given = (
        {name: value for name, value in metadata.items() if value and _is_ours(name, value)}
        if metadata
        else {}
    )
    for header in _HEADERS.keys() & headers.keys():
        if value := headers[header]:
            given[_HEADERS[header]] = value
    if not given:
        return NO_SETTINGS
    for name, value in given.items():
        if len(value) > MAX_ID_CHARS:
            raise BadRequest(
                f"{name} has {len(value)} characters; at most {MAX_ID_CHARS} are kept", param=name
            )
    shape = given.get("task_shape")
    if shape is not None and shape not in SHAPES:
        raise BadRequest(
            f"'{shape}' is not a task shape; there are {', '.join(SHAPES)}", param="X-Task-Shape"
        )
    role = given.get("role")
    if role is not None and role not in ROLES:
        raise BadRequest(f"'{role}' is not a role; there are {', '.join(ROLES)}", param="X-Task-Role")
    return Settings(
        task_id=given.get("task_id"),
        workflow=given.get("workflow"),
        shape=shape,
        role=role,
        slo_ttft_s=_hint_s(given, "slo_ttft_ms"),
        slo_tpot_s=_hint_s(given, "slo_tpot_ms"),
        deadline_s=_hint_s(given, "deadline_ms"),
    )


def _hint_s(given: Mapping[str, str], name: str) -> float | None:
    if name not in given:
        return None
    try:
        milliseconds = float(given[name])
    except ValueError:
        milliseconds = 0.0
    if not 0 < milliseconds < float("inf"):
        header = f"X-{name.replace('_', '-').title()}"
        raise BadRequest(
            f"{header} must be a positive number of milliseconds, not '{given[name]}'", param=header
        )
    return milliseconds / 1e3


def query_of(asked: Asked, **told: Any) -> Query:
    """What all surfaces read alike, and what this one found in its own format. Raises `BadRequest`."""
    body = asked.body
    metadata = metadata_of(body)
    settings = settings_of(asked.headers, metadata)
    return Query(
        endpoint=asked.path,
        model=body["model"],
        caller=asked.caller,
        stream=body.get("stream") is True,
        headers=asked.headers,
        metadata=metadata,
        workflow=settings.workflow,
        task_id=settings.task_id,
        declared_shape=settings.shape,
        role=settings.role,
        temperature=number(body.get("temperature")),
        infer_shape=partial(inferred_shape, body),
        slo_ttft_s=settings.slo_ttft_s,
        slo_tpot_s=settings.slo_tpot_s,
        deadline_s=settings.deadline_s,
        **told,
    )


def number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def limit_of(*values: Any) -> int | None:
    """The first of them that is a positive number of tokens."""
    for value in values:
        if isinstance(value, int) and value > 0:
            return value
    return None


def text_bytes(content: Any) -> int:
    """UTF-8 bytes of text; a token's id counts as its text, what is neither (images, audio) not at all."""
    if isinstance(content, str):
        return len(content) if content.isascii() else len(content.encode("utf-8", "replace"))
    size, waiting = 0, [content]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            size += len(item) if item.isascii() else len(item.encode("utf-8", "replace"))
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            waiting += [item[key] for key in _TEXT_KEYS if key in item]
            if item.get("type") == "tool_use":
                size += json_bytes(item.get("input"))
        elif isinstance(item, int):
            size += BYTES_PER_TOKEN
    return size


def json_bytes(value: Any) -> int:
    """What a model reads as JSON: definitions of tools and what they were called with."""
    return len(encoded(value)) if value else 0


def encoded(value: Any, *, sort: bool = False) -> bytes:
    """As JSON. Raises `BadRequest` for nesting that can be read but not written."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort else None)
    except orjson.JSONEncodeError:
        raise BadRequest("the body is nested too deeply", code="invalid_json") from None


def has_image(content: Any) -> bool:
    return isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") in ("image_url", "input_image", "image")
        for part in content
    )


def body_for(asked: Asked, target: Target, *, asks_usage: bool) -> bytes:
    """The body as this target is to get it: its model's name, nothing of ours, usage asked for in a stream.

    The caller's bytes with those two edits, wherever they can be made in place.
    """
    body = asked.body
    has_ours = _has_our_metadata(body) or ("sparkgate" in body and target.kind != "engine")
    if not has_ours and not (asks_usage and "stream_options" in body):
        edited = _with_model(asked.raw, target.model)
        if edited is not None:
            return _with_usage(edited) if asks_usage else edited
    return encoded(value_for(asked, target, asks_usage=asks_usage))


def _has_our_metadata(body: dict[str, Any]) -> bool:
    metadata = body.get("metadata")
    return isinstance(metadata, dict) and any(_is_ours(name, value) for name, value in metadata.items())


def _is_ours(name: str, value: Any) -> bool:
    """Apps have roles of their own in their metadata, and those stay there."""
    return name in OUR_METADATA and (name != "role" or value in ROLES)


def value_for(asked: Asked, target: Target, *, asks_usage: bool = False) -> dict[str, Any]:
    """The same as a value."""
    body = {**asked.body, "model": target.model}
    if target.kind != "engine":
        body.pop("sparkgate", None)
    if _has_our_metadata(body):
        kept = {key: value for key, value in body["metadata"].items() if not _is_ours(key, value)}
        if kept:
            body["metadata"] = kept
        else:
            del body["metadata"]  # providers refuse what they do not know
    if asks_usage:
        options = body.get("stream_options")
        body["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    return body


def _with_model(raw: bytes, model: str) -> bytes | None:
    """None where it is not certain which name that is: of several, or of a key that may be spelled in escapes."""
    found = _MODEL.search(raw)
    if found is None or raw.count(b'"model"') != 1 or _ESCAPED_LETTER in raw:
        return None
    return raw[: found.start(1)] + orjson.dumps(model)[1:-1] + raw[found.end(1) :]


def _with_usage(raw: bytes) -> bytes:
    return raw.rstrip()[:-1] + b',"stream_options":{"include_usage":true}}'


def fingerprint(asked: Asked, *, is_certain: bool = False) -> bytes | None:
    """The same for calls that must have the same answer; None for those whose answer is left to chance."""
    body = asked.body
    if not is_certain and body.get("temperature") != 0 and body.get("seed") is None:
        return None
    said = {key: value for key, value in body.items() if key not in _NOT_IN_FINGERPRINT}
    try:
        answer_to = encoded(said, sort=True)
    except BadRequest:
        return None
    how = f"{asked.native_path} {asked.headers.get('anthropic-beta', '')}\n"
    return sha256(how.encode() + answer_to).digest()


def refuse_dropped(target_refuses: bool, dropped: list[str], target: str) -> None:
    """Raises `BadRequest` where a target is to get every parameter or none of the call."""
    if target_refuses and dropped:
        names = ", ".join(f"'{name}'" for name in dropped)
        raise BadRequest(
            f"target '{target}' cannot be told {names} in its own format (its `unsupported` is `reject`)",
            code="unsupported_parameter",
            param=dropped[0],
        )


def passed_headers(headers: Mapping[str, str], names: Iterable[str] = TRACE_HEADERS) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}
