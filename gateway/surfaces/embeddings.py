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
    metadata_of,
    passed_headers,
    settings_of,
    text_bytes,
)
from gateway.wire import chat
from gateway.wire.errors import BadRequest
from router.query import Query

EMBEDDINGS = "/v1/embeddings"


def call_of(asked: Asked) -> Call:
    """Raises `BadRequest`. An embedding is the same whenever it is asked for, so every call may be cached."""
    body = asked.body
    check(body)
    given = body.get("input")
    if not given or not isinstance(given, str | list):
        raise BadRequest("'input' must be a text, or a list of texts or tokens", param="input")
    metadata = metadata_of(body)
    settings = settings_of(asked.headers, metadata)
    tokens = sum(isinstance(each, int) for each in given) + sum(
        len(each) for each in given if isinstance(each, list)
    )
    return Call(
        query=Query(
            endpoint=asked.path,
            model=body["model"],
            caller=asked.caller,
            headers=asked.headers,
            metadata=metadata,
            workflow=settings.workflow,
            task_id=settings.task_id,
            declared_shape=settings.shape,
            input_tokens=text_bytes(given) // BYTES_PER_TOKEN + tokens,
            deadline_s=settings.deadline_s,
        ),
        form_for=lambda target: Form(
            asked.path, body_for(asked, target, asks_usage=False), chat, passed_headers(asked.headers)
        ),
        errors=OPENAI_ERRORS,
        fingerprint=fingerprint(asked, is_certain=True),
    )
