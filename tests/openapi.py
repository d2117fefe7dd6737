"""Values checked against OpenAI's published API document, wherever a test has one at hand.

In: the name of one of its schemas, and a value. Out: what is wrong with the value, in words. The document is too
large to carry along: it is read from the folder that the environment variable `SPARKGATE_TEST_DATA` names. It is JSON
Schema 2020-12 but for two words of OpenAPI: `nullable`, and `discriminator`, which says which of several branches
is meant.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from jsonschema.exceptions import ValidationError, best_match  # type: ignore[import-untyped]
from jsonschema.validators import extend  # type: ignore[import-untyped]

VARIABLE = "SPARKGATE_TEST_DATA"
FILE = "openai_openapi.yaml"
_PREFIX = "#/components/schemas/"

_folder = os.environ.get(VARIABLE)
DOCUMENT = Path(_folder) / FILE if _folder else None
needs_document = pytest.mark.skipif(
    DOCUMENT is None or not DOCUMENT.is_file(), reason=f"{VARIABLE} names no folder with OpenAI's {FILE}"
)


def errors_of(schema_name: str, value: Any) -> list[str]:
    """What is wrong with `value`, each with its place; empty if it is as published. For tests that `needs_document`.

    Raises `KeyError` for a name that the document does not have.
    """
    return published().errors_of(schema_name, value)


@functools.cache
def published() -> Schemas:
    """The schemas of the document, read once (about a second)."""
    assert DOCUMENT is not None
    return Schemas(yaml.load(DOCUMENT.read_bytes(), yaml.CSafeLoader)["components"]["schemas"])


class Schemas:
    """Named schemas that refer to each other as those of an OpenAPI document do."""

    def __init__(self, schemas: dict[str, Any]) -> None:
        self._schemas = schemas
        self._root = {"components": {"schemas": _without_nullable(schemas)}}
        branching = {"discriminator": self._discriminated, "oneOf": _undiscriminated("oneOf")}
        branching["anyOf"] = _undiscriminated("anyOf")
        self._validator = extend(Draft202012Validator, branching)

    def errors_of(self, schema_name: str, value: Any) -> list[str]:
        """As the module's `errors_of`."""
        if schema_name not in self._schemas:
            raise KeyError(f"the document has no schema '{schema_name}'")
        validator = self._validator({**self._root, "$ref": _PREFIX + schema_name})
        found = [best_match([error]) for error in validator.iter_errors(value)]
        return [f"{error.json_path}: {error.message}" for error in found if error is not None]

    def _discriminated(
        self, validator: Any, discriminator: dict[str, str], value: Any, schema: dict[str, Any]
    ) -> Iterator[ValidationError]:
        """The errors by the branch that the property names; by the closest where several branches share a name."""
        name = discriminator["propertyName"]
        given = value.get(name) if isinstance(value, dict) else None
        branches = schema.get("oneOf") or schema.get("anyOf") or []
        meant = [branch for branch in branches if self._is_meant(branch, name, given)]
        if branches and not meant:
            yield ValidationError(f"{name} {given!r} is that of no branch")
        elif meant:
            yield from min((list(validator.descend(value, branch)) for branch in meant), key=len)

    def _is_meant(self, branch: dict[str, Any], name: str, given: Any) -> bool:
        """Whether a branch allows `given`; a property that is absent fits wherever it is not required."""
        while "$ref" in branch:
            branch = self._schemas[branch["$ref"].removeprefix(_PREFIX)]
        inside = branch.get("oneOf") or branch.get("anyOf")
        if inside:
            return any(self._is_meant(one, name, given) for one in inside)
        if given is None:
            return name not in branch.get("required", ())
        allowed = branch.get("properties", {}).get(name, {}).get("enum")
        return allowed is None or given in allowed


def _undiscriminated(keyword: str) -> Any:
    """The keyword as usual, but silent where a discriminator decides."""
    usual = Draft202012Validator.VALIDATORS[keyword]

    def check(validator: Any, branches: Any, value: Any, schema: dict[str, Any]) -> Iterator[ValidationError]:
        if "discriminator" not in schema:
            yield from usual(validator, branches, value, schema)

    return check


def _without_nullable(schema: Any) -> Any:
    """The same in JSON Schema's own words: whatever is not null is as the rest says."""
    if isinstance(schema, list):
        return [_without_nullable(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    rest = {key: _without_nullable(value) for key, value in schema.items() if key != "nullable"}
    return {"if": {"type": "null"}, "else": rest} if schema.get("nullable") is True else rest
