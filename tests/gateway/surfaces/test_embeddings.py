from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.surfaces.common import Asked
from gateway.surfaces.embeddings import call_of
from gateway.wire.errors import BadRequest
from gateway.wire.paths import EMBEDDINGS


def asked(**given: Any) -> Asked:
    body = {"model": "auto", "input": "hello"} | given
    return Asked(EMBEDDINGS, {}, json.dumps(body).encode(), body, "web")


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"model": 1}, "model"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": {"text": "x"}}, "input"),
        ({"stream": True}, "stream"),
        ({"metadata": {"task_shape": "chatty"}}, "X-Task-Shape"),
    ],
)
def test_wrong_calls_are_refused_with_the_parameter_named(given: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        call_of(asked(**given))
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("given", "input_tokens"),
    [("x" * 40, 10), (["x" * 20, "é" * 10], 10), ([7, 8, 9], 3), ([[7, 8], [9]], 3)],
)
def test_texts_and_tokens_are_counted(given: Any, input_tokens: int) -> None:
    assert call_of(asked(input=given)).query.input_tokens == input_tokens


def test_every_call_may_be_answered_from_a_cache() -> None:
    assert call_of(asked()).fingerprint() == call_of(asked(user="u")).fingerprint() is not None
