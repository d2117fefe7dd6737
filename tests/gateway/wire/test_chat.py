from __future__ import annotations

import json

import pytest

from gateway.ledger.records import Usage
from gateway.wire.chat import read_event, usage_of, without_asked_usage
from tests.fakes import DONE, ROLE, chunk, usage_chunk


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("delta", "is_first_token"),
    [
        ({"content": "a"}, True),
        ({"content": ""}, False),
        ({"role": "assistant"}, False),
        ({"refusal": "no"}, True),
        ({"reasoning_content": "hm"}, True),
        ({"tool_calls": [{"index": 0}]}, True),
        ({}, False),
    ],
)
def test_what_counts_as_the_first_token(delta: dict[str, object], is_first_token: bool) -> None:
    choices = [{"index": 0, "delta": delta, "finish_reason": None}]
    assert read_event(chunk(choices=choices)).has_token is is_first_token


def test_events_of_other_kinds() -> None:
    assert read_event(DONE).is_done
    assert read_event(b"data: {oops\n\n").is_malformed
    assert read_event(b"data: [1]\n\n").is_malformed
    assert read_event(event({"error": {"message": "full"}})).is_error
    assert not read_event(event({"error": None, "choices": []})).is_error
    assert read_event(b": ping\n\n").value is None
    assert read_event(chunk(finish_reason="length")).finish_reason == "length"
    assert not read_event(ROLE).has_token
    assert read_event(event({"choices": [{"text": "legacy"}]})).has_token


def test_usage_with_and_without_details() -> None:
    plain = {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    assert usage_of(plain) == Usage(3, 4)
    details = {
        "prompt_tokens": 30,
        "completion_tokens": 40,
        "prompt_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 10},
    }
    assert usage_of({"usage": details}) == Usage(30, 40, 20, 5, 10)
    assert usage_of({"usage": None}) is None
    assert usage_of({}) is None


def test_dropping_the_usage_nobody_asked_for_changes_nothing_else() -> None:
    with_null = b'data: {"id":"1","usage":null,"choices":[{"delta":{"content":"a"}}],"odd":1.50}\n\n'
    kept = without_asked_usage(with_null, read_event(with_null))
    assert kept == b'data: {"id":"1","choices":[{"delta":{"content":"a"}}],"odd":1.50}\n\n'
    at_end = b'data: {"id":"1","choices":[] , "usage" : null}\n\n'
    assert without_asked_usage(at_end, read_event(at_end)) == b'data: {"id":"1","choices":[] }\n\n'
    extra = usage_chunk(1, 2)
    assert without_asked_usage(extra, read_event(extra)) is None
    for untouched in (chunk("text"), DONE, b": ping\n\n"):
        assert without_asked_usage(untouched, read_event(untouched)) == untouched


def test_the_words_usage_null_inside_a_text_stay() -> None:
    text = 'say "usage":null, please'
    whole = chunk(text, usage=None)
    kept = without_asked_usage(whole, read_event(whole))
    assert kept is not None
    value = json.loads(kept[6:])
    assert value["choices"][0]["delta"]["content"] == text
    assert "usage" not in value


def test_usage_in_a_chunk_with_choices_is_kept_because_the_chunk_is() -> None:
    both = chunk("x", usage={"prompt_tokens": 1, "completion_tokens": 1})
    piece = read_event(both)
    assert piece.usage == Usage(1, 1)
    assert without_asked_usage(both, piece) == both
