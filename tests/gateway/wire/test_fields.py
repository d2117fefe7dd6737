"""Answers of targets that could be read, but not written again within a translation."""

from __future__ import annotations

import orjson
import pytest

from gateway.wire.fields import MAX_DEPTH, WRAPPED, answered


def nested(levels: int) -> bytes:
    return b'{"a":' + b"[" * (levels - 1) + b'"' + b"x" * 2 * MAX_DEPTH + b'"' + b"]" * (levels - 1) + b"}"


@pytest.mark.parametrize("levels", [1, MAX_DEPTH - 2 * WRAPPED, MAX_DEPTH - WRAPPED])
def test_what_is_taken_can_be_written_with_more_around_it(levels: int) -> None:
    value = answered(nested(levels))
    assert value is not None
    for _ in range(WRAPPED):
        value = {"outer": value}
    assert orjson.dumps(value)


@pytest.mark.parametrize("levels", [MAX_DEPTH, MAX_DEPTH + 10, 5 * MAX_DEPTH])
def test_what_is_nested_more_deeply_is_no_answer(levels: int) -> None:
    assert answered(nested(levels)) is None
