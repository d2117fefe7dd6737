"""The committed JSON Schemas are those of the models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.config.schema import FILES, File, json_schema

COMMITTED = Path(__file__).parents[3] / "docs" / "schema"


@pytest.mark.parametrize("file", list(FILES))
def test_committed_schemas_are_current(file: File) -> None:
    committed = json.loads((COMMITTED / f"{file}.json").read_text())
    assert committed == json_schema(file), f"write it anew: sparkgate schema {file} > docs/schema/{file}.json"


def test_the_schema_knows_choices_limits_and_unknown_keys() -> None:
    schema = json_schema("policy")
    assert schema["additionalProperties"] is False
    assert "short_chat" in schema["properties"]["shapes"]["propertyNames"]["enum"]
    assert schema["$defs"]["DefaultsFile"]["properties"]["explore"]["maximum"] == 1


def test_the_schema_knows_both_forms_of_a_candidate() -> None:
    candidates = json_schema("policy")["$defs"]["ShapeFile"]["properties"]["candidates"]
    (forms,) = [form["items"] for form in candidates["anyOf"] if form["type"] == "array"]
    assert forms == {"oneOf": [{"type": "string"}, {"$ref": "#/$defs/WeightedFile"}]}
