"""The check against OpenAI's document: what the words of OpenAPI mean, and examples of the document itself."""

from __future__ import annotations

from typing import Any

import pytest

from tests.openapi import Schemas, errors_of, needs_document

CIRCLE = {
    "type": "object",
    "properties": {"kind": {"type": "string", "enum": ["circle"]}, "radius": {"type": "number"}},
    "required": ["kind", "radius"],
}
BOX = {
    "type": "object",
    "properties": {
        "kind": {"type": "string", "enum": ["box"]},
        "inside": {"anyOf": [{"$ref": "#/components/schemas/Shape"}, {"type": "null"}]},
        "colour": {"type": "string", "enum": ["red"], "nullable": True},
    },
    "required": ["inside"],
}
BY_KIND = {"propertyName": "kind"}
SHAPES = Schemas(
    {
        "Circle": CIRCLE,
        "Box": BOX,
        "Round": {"oneOf": [{"$ref": "#/components/schemas/Circle"}], "discriminator": BY_KIND},
        "Shape": {
            "oneOf": [{"$ref": "#/components/schemas/Round"}, {"$ref": "#/components/schemas/Box"}],
            "discriminator": BY_KIND,
        },
    }
)


@pytest.mark.parametrize(
    "value",
    [
        {"kind": "circle", "radius": 1},
        {"kind": "box", "inside": None},
        {"kind": "box", "inside": {"kind": "circle", "radius": 2.5}, "colour": None},
        {"inside": None, "colour": "red"},  # without a kind it can only be a box
    ],
)
def test_what_is_as_published(value: Any) -> None:
    assert SHAPES.errors_of("Shape", value) == []


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"kind": "circle"}, "$: 'radius' is a required property"),
        ({"kind": "cone", "radius": 1}, "$: kind 'cone' is that of no branch"),
        ({"kind": "box", "inside": None, "colour": "blue"}, "$.colour: 'blue' is not one of ['red']"),
        (
            {"kind": "box", "inside": {"kind": "circle", "radius": "1"}},
            "$.inside.radius: '1' is not of type 'number'",
        ),
        (3, "$: 3 is not of type 'object'"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(value: Any, error: str) -> None:
    assert SHAPES.errors_of("Shape", value) == [error]


def test_a_name_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError, match="Cube"):
        SHAPES.errors_of("Cube", {})


@needs_document
def test_the_document_itself() -> None:
    chat = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "logprobs": None}
    assert errors_of("CreateChatCompletionRequest", chat) == []
    assert errors_of(
        "CreateChatCompletionRequest", {**chat, "messages": [{"role": "usher", "content": "hello"}]}
    )
    assert errors_of("CreateChatCompletionRequest", {"model": "m"}) == [
        "$: 'messages' is a required property"
    ]
    assert errors_of("CreateEmbeddingRequest", {"model": "m", "input": ["one", "two"]}) == []
    assert errors_of("CreateEmbeddingRequest", {"model": "m", "input": 3}) != []
    event = {"type": "response.output_text.delta", "item_id": "i", "output_index": 0, "content_index": 0}
    whole = {**event, "delta": "a", "logprobs": [], "sequence_number": 4}
    assert errors_of("ResponseStreamEvent", whole) == []
    assert len(errors_of("ResponseStreamEvent", event)) == 3
