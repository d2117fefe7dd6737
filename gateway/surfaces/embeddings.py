"""`POST /v1/embeddings`: from an OpenAI request to a `Call`; upstream targets only, never streamed."""

from __future__ import annotations

from gateway.dispatch.call import Call, Form
from gateway.surfaces.common import (
    BYTES_PER_TOKEN,
    OPENAI_ERRORS,
    Asked,
    body_for,
    check,
    fingerprint,
    passed_headers,
    query_of,
    text_bytes,
)
from gateway.wire import chat
from gateway.wire.errors import BadRequest


def call_of(asked: Asked) -> Call:
    """Raises `BadRequest`. An embedding is the same whenever it is asked for, so every call may be cached."""
    body = asked.body
    check(body)
    if body.get("stream"):
        raise BadRequest("embeddings are not streamed; leave 'stream' out", param="stream")
    given = body.get("input")
    if not given or not isinstance(given, str | list):
        raise BadRequest("'input' must be a text, or a list of texts or tokens", param="input")
    return Call(
        query=query_of(asked, input_tokens=text_bytes(given) // BYTES_PER_TOKEN),
        form_for=lambda target: Form(
            asked.native_path, body_for(asked, target, asks_usage=False), chat, passed_headers(asked.headers)
        ),
        errors=OPENAI_ERRORS,
        fingerprint=lambda: fingerprint(asked, is_certain=True),
    )
