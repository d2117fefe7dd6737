"""The prompts are there, distinct, and their schemas are strict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from gateway.bench.engine.prompts import KINDS, prompts


@pytest.mark.parametrize("kind", KINDS)
def test_eight_of_a_kind_are_distinct_and_then_they_begin_again(kind: str) -> None:
    found = prompts(kind, 9)
    assert len({prompt.text for prompt in found}) == 8
    assert found[8] == found[0]
    assert prompts(kind, 3, start=7) == [found[7], found[0], found[1]]


@pytest.mark.parametrize("kind", KINDS)
def test_json_prompts_alone_bring_a_schema(kind: str) -> None:
    assert all((prompt.schema is not None) == (kind == "json") for prompt in prompts(kind, 8))


def test_every_object_of_a_schema_requires_all_it_names_and_allows_nothing_else() -> None:
    for prompt in prompts("json", 8):
        found = list(objects(prompt.schema))
        assert found
        for each in found:
            assert each["required"] == list(each["properties"])
            assert each["additionalProperties"] is False


def objects(schema: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(schema, Mapping):
        if schema.get("type") == "object":
            yield schema
        for inner in schema.values():
            yield from objects(inner)
