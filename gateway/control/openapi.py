"""`GET /openapi.json`: every path that the gateway serves, as an OpenAPI document.

In: the control plane's app, which knows its own paths and request bodies. Out: the document, with what FastAPI cannot
know: the data plane, success bodies, error bodies and who may call. Bodies of the data plane are described as far as
the gateway itself looks at them; the rest belongs to OpenAI's and Anthropic's own documents.
"""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gateway.wire import paths

PATH = "/openapi.json"
Schema = dict[str, Any]

_OPEN = ("/health", "/ready", "/metrics", PATH)  # no key is asked for
_METHODS = ("get", "post", "put", "patch", "delete")
_JSON, _EVENTS, _TEXT = "application/json", "text/event-stream", "text/plain"


def document(app: FastAPI, version: str) -> Schema:
    """Made once; `app` keeps it."""
    if app.openapi_schema is None:
        app.openapi_schema = _document(app, version)
    return app.openapi_schema


def methods_of(path: str, document: Schema) -> list[str]:
    """What may be asked of a path, in upper case; nothing where the document has no such path."""
    fitting = [
        template
        for template in document["paths"]
        if re.fullmatch(re.sub(r"\\\{\w+\\\}", ".+", re.escape(template)), path)
    ]
    operations = document["paths"][max(fitting, key=len)] if fitting else {}
    return sorted(method.upper() for method in operations if method in _METHODS)


def _document(app: FastAPI, version: str) -> Schema:
    found = get_openapi(title="sparkgate", version=version, routes=app.routes)
    served: dict[str, dict[str, Schema]] = found["paths"]
    served["/ready"] = {"get": {"summary": "Whether calls are served", "responses": {}}}
    served[PATH] = {"get": {"summary": "This document", "responses": {}}}
    for path, body in _CALLS.items():
        served[path] = {"post": _call(path, body)}
    for path, operations in served.items():
        for method in operations.keys() & set(_METHODS):
            _complete(path, method, operations[method])
    components = found.setdefault("components", {})
    components["schemas"] = {
        name: schema
        for name, schema in components.get("schemas", {}).items()
        if name not in ("HTTPValidationError", "ValidationError")
    } | {"Error": _ERROR, "AnthropicError": _ANTHROPIC_ERROR}
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    return found


def _complete(path: str, method: str, operation: Schema) -> None:
    """What is said of every operation: its success, its errors, its key."""
    responses: Schema = operation["responses"]
    responses.pop("422", None)  # FastAPI's own; ours is 400
    status = "201" if (path, method) == ("/admin/keys", "post") else "200"
    responses[status] = {"description": "Done", "content": _success(path, method)}
    if path in _OPEN:
        return
    operation["security"] = [{"bearer": []}, {"x-api-key": []}]
    statuses = {"400", "401", "403", "503", *_ALSO.get((path, method), ())}
    if "{" in path:
        statuses.add("404")
    if "requestBody" in operation:
        statuses.add("413")
    error = "AnthropicError" if path in (paths.MESSAGES, paths.COUNT_TOKENS) else "Error"
    for each in sorted(statuses):
        responses[each] = _refusal(_STATUSES[each], error)
    if path in _CALLS:
        responses["default"] = _refusal("An upstream's own refusal, passed on with its status", error)


def _refusal(description: str, error: str) -> Schema:
    return {"description": description, "content": {_JSON: {"schema": _ref(error)}}}


def _call(path: str, body: Schema) -> Schema:
    content = {_JSON: {"schema": body}}
    summary = _SUMMARIES[path]
    return {"summary": summary, "requestBody": {"required": True, "content": content}, "responses": {}}


def _success(path: str, method: str) -> Schema:
    if path == "/metrics":
        return {_TEXT: {"schema": {"type": "string"}}}
    schema = _ANSWERS.get((path, method), {"type": "object"})
    content = {_JSON: {"schema": schema}}
    if path in _STREAMED:
        content[_EVENTS] = {}
    return content


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    """Further properties are allowed; those given are required, and `required` are of any type."""
    whole = properties | {name: {} for name in required}
    return {"type": "object", "properties": whole, "required": list(whole)}


def _one_of(*types: str) -> Schema:
    return {"type": list(types)}


_STRING, _BOOLEAN, _NUMBER, _INTEGER, _LIST, _ANY = (
    {"type": name} for name in ("string", "boolean", "number", "integer", "array", "object")
)
_NULLABLE = _one_of("string", "null")
_ERROR = _object(
    error=_object(message=_STRING, type=_STRING, param=_NULLABLE, code=_one_of("string", "integer", "null"))
)
_ANTHROPIC_ERROR = _object(type={"const": "error"}, error=_object(type=_STRING, message=_STRING))


def _list_of(item: Schema) -> Schema:
    return _object(object={"const": "list"}, data={"type": "array", "items": item})


_MODEL = {
    "type": "string",
    "minLength": 1,
    "description": "`auto`, `auto/<shape>`, a target, or a mapped name",
}
_BODY = _object(model=_MODEL) | {"description": "The rest is as the API's own document has it"}
_STREAMABLE = _BODY | {"properties": {"model": _MODEL, "stream": _one_of("boolean", "null")}}
_CALLS: dict[str, Schema] = {
    paths.CHAT: _STREAMABLE,
    paths.COMPLETIONS: _STREAMABLE,
    paths.EMBEDDINGS: _BODY,
    paths.RESPONSES: _STREAMABLE,
    paths.MESSAGES: _STREAMABLE,
    paths.COUNT_TOKENS: _BODY,
}
_SUMMARIES = {
    paths.CHAT: "A chat completion, as OpenAI has it",
    paths.COMPLETIONS: "A text completion, as OpenAI has it",
    paths.EMBEDDINGS: "Embeddings, as OpenAI has them",
    paths.RESPONSES: "A response, as OpenAI has it",
    paths.MESSAGES: "A message, as Anthropic has it",
    paths.COUNT_TOKENS: "How many tokens a message would read, as Anthropic has it",
}
_STREAMED = (
    paths.CHAT,
    paths.COMPLETIONS,
    paths.RESPONSES,
    paths.MESSAGES,
    f"{paths.RESPONSES}/{{response_id}}",
)
_STATUSES = {
    "400": "The request is wrong; the message says where",
    "401": "No key, or an unknown, revoked or expired one",
    "403": "The key may not do this",
    "404": "Not there, or another caller's",
    "408": "The request did not come in time",
    "409": "What it builds on was changed by somebody else",
    "413": "The body is too large",
    "429": "A limit of the key is reached, or a target is busy",
    "431": "The headers are too large",
    "500": "A fault of the gateway, which its log tells",
    "502": "The targets failed",
    "503": "Nothing can serve this now, or the database does not answer",
    "504": "A deadline of the policy passed",
}
_OF_CALLS = ("404", "408", "429", "431", "500", "502", "504")
_OF_KEEPERS = ("502", "504")
_ALSO: dict[tuple[str, str], tuple[str, ...]] = {
    **{(path, "post"): _OF_CALLS for path in _CALLS},
    ("/admin/policy", "get"): ("404",),
    ("/admin/policy", "put"): ("409",),
    ("/admin/policy/rollback", "post"): ("404", "409"),
    ("/admin/policy/explain", "post"): ("404",),
    ("/admin/policy/replay", "post"): ("429",),
    (f"{paths.RESPONSES}/{{response_id}}", "get"): _OF_KEEPERS,
    (f"{paths.RESPONSES}/{{response_id}}", "delete"): _OF_KEEPERS,
    (f"{paths.RESPONSES}/{{response_id}}/cancel", "post"): _OF_KEEPERS,
    (f"{paths.RESPONSES}/{{response_id}}/input_items", "get"): _OF_KEEPERS,
}
_KEY = _object(("rpm", "tpm", "parallel", "expires_at"), object={"const": "key"}, name=_STRING, scope=_STRING)
_POLICY = _object(object={"const": "policy"}, hash=_STRING, yaml=_STRING)
_TARGET_STATE = _object(("reason",), usable=_BOOLEAN, in_flight=_INTEGER)
_STATES = {"type": "object", "additionalProperties": _TARGET_STATE}
_OPENAI_MODEL = _object(id=_STRING, object={"const": "model"}, created=_INTEGER, owned_by=_STRING)
_ANTHROPIC_MODEL = _object(id=_STRING, type={"const": "model"}, display_name=_STRING, created_at=_STRING)
_ANTHROPIC_LIST = _object(
    ("first_id", "last_id"), data={"type": "array", "items": _ANTHROPIC_MODEL}, has_more=_BOOLEAN
)
_ANSWERS: dict[tuple[str, str], Schema] = {
    (paths.CHAT, "post"): _object(id=_STRING, object=_STRING, choices=_LIST),
    (paths.COMPLETIONS, "post"): _object(id=_STRING, object=_STRING, choices=_LIST),
    (paths.EMBEDDINGS, "post"): _object(object={"const": "list"}, data=_LIST),
    (paths.RESPONSES, "post"): _object(
        id=_STRING, object={"const": "response"}, output=_LIST, status=_STRING
    ),
    (paths.MESSAGES, "post"): _object(id=_STRING, type={"const": "message"}, content=_LIST, usage=_ANY),
    (paths.COUNT_TOKENS, "post"): _object(input_tokens=_INTEGER),
    ("/health", "get"): _object(
        status=_STRING, version=_STRING, uptime_s=_NUMBER, policy=_ANY, targets=_STATES
    ),
    ("/ready", "get"): _object(status={"const": "ok"}),
    (PATH, "get"): _object(openapi=_STRING, info=_ANY, paths=_ANY),
    ("/v1/models", "get"): {"anyOf": [_list_of(_OPENAI_MODEL), _ANTHROPIC_LIST]},
    ("/v1/models/{name}", "get"): {"anyOf": [_OPENAI_MODEL, _ANTHROPIC_MODEL]},
    ("/v1/exchanges/{request_id}", "get"): _object(request_id=_STRING, attempts=_LIST, shadows=_LIST),
    ("/v1/tasks/{task_id}", "get"): _object(
        task_id=_NULLABLE, status=_STRING, request_ids=_LIST, outcomes=_LIST
    ),
    ("/v1/tasks/{task_id}/outcome", "post"): _object(object={"const": "task.outcome"}, status=_STRING),
    ("/admin/targets", "get"): _list_of(_object(name=_STRING, kind=_STRING, **_TARGET_STATE["properties"])),
    ("/admin/keys", "get"): _list_of(_KEY),
    ("/admin/keys", "post"): _KEY | {"required": [*_KEY["required"], "key"]},
    ("/admin/keys/{name}", "patch"): _KEY,
    ("/admin/keys/{name}", "delete"): _KEY,
    ("/admin/usage", "get"): _list_of(_ANY),
    ("/admin/policy", "get"): _POLICY,
    ("/admin/policy", "put"): _POLICY,
    ("/admin/policy/check", "post"): _object(
        ("hash",), object={"const": "policy.check"}, ok=_BOOLEAN, mistakes=_LIST
    ),
    ("/admin/policy/versions", "get"): _list_of(_object(hash=_STRING, active=_BOOLEAN)),
    ("/admin/policy/versions/{version}", "get"): _POLICY,
    ("/admin/policy/rollback", "post"): _POLICY | {"required": [*_POLICY["required"], "unchanged"]},
    ("/admin/policy/explain", "post"): _object(
        object={"const": "policy.explanation"}, shape=_STRING, candidates=_LIST
    ),
    ("/admin/policy/replay", "post"): _ANY,
}
