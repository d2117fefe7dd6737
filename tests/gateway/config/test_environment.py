"""`${NAME}` in values."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.environment import expand, references

ENV = {"HOST": "db.example", "EMPTY": "", "KEY": "sk-very-secret"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("${HOST}", "db.example"),
        ("http://${HOST}:${PORT:-5432}/x", "http://db.example:5432/x"),
        ("${EMPTY:-other}", "other"),
        ("${EMPTY}", ""),
        ("${HOST:-other}", "db.example"),
        ("${ABSENT:-}", ""),
        ("$${HOST}", "${HOST}"),
        ("$HOST costs $5", "$HOST costs $5"),
    ],
)
def test_text_is_expanded_as_in_a_shell(text: str, expected: str) -> None:
    expanded = expand({"a": [text]}, ENV)
    assert expanded.values == {"a": [expected]}
    assert not expanded.missing
    assert not expanded.malformed


def test_unset_variables_are_listed_with_their_paths() -> None:
    expanded = expand({"a": "${NOPE}", "b": {"c": ["x", "${HOST}${ALSO}"]}}, ENV)
    assert expanded.missing == {("a",): "NOPE", ("b", "c", 1): "ALSO"}
    assert expanded.values == {"a": None, "b": {"c": ["x", None]}}


def test_an_empty_key_counts_as_unset() -> None:
    assert expand({"api_key": "${EMPTY}"}, ENV).missing == {("api_key",): "EMPTY"}


@pytest.mark.parametrize("text", ["${", "${HOST", "${1}", "${A B}", "${HOST-x}"])
def test_malformed_references_are_listed(text: str) -> None:
    assert expand({"a": text}, ENV).malformed == [("a",)]


@pytest.mark.parametrize("value", [1, 1.5, True, None])
def test_other_values_stay(value: Any) -> None:
    assert expand({"a": value}, ENV).values == {"a": value}


def test_redact_hides_what_came_from_the_environment_and_literal_secrets() -> None:
    expanded = expand({"a": "x-${KEY}", "targets": [{"api_key": "sk-literal-key"}]}, ENV)
    assert expanded.redact("got sk-very-secret and sk-literal-key") == "got ${KEY} and (hidden)"


def test_references_finds_every_use() -> None:
    values = {"a": "${HOST}", "b": ["${X:-1}", "$${Y}", "${"]}
    assert set(references(values)) == {("a",), ("b", 0), ("b", 2)}
