from __future__ import annotations

import pytest

from engine.http.requests import read_chat, read_completion

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def test_defaults_leave_the_distribution_alone() -> None:
    request = read_chat(CHAT)
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (1.0, 1.0, 0, 0.0)
    assert not sampling.has_penalties
    assert sampling.top_logprobs is None
    assert request.max_new_tokens is None
    assert request.stops == ()
    assert not request.stream


def test_requests_without_a_seed_differ() -> None:
    assert read_chat(CHAT).sampling.seed != read_chat(CHAT).sampling.seed


def test_null_means_absent() -> None:
    nulls = dict.fromkeys(["temperature", "stop", "seed", "max_tokens", "n", "stream", "tools", "logprobs"])
    assert read_chat({**CHAT, **nulls}).sampling.temperature == 1.0


def test_every_field_arrives() -> None:
    request = read_chat(
        {
            **CHAT,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 40,
            "min_p": 0.1,
            "presence_penalty": 1,
            "frequency_penalty": -1,
            "repetition_penalty": 1.2,
            "seed": -5,
            "stop": ["a", "b"],
            "max_tokens": 9,
            "max_completion_tokens": 7,
            "logprobs": True,
            "top_logprobs": 3,
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
            "min_tokens": 4,
            "stop_token_ids": [3, 9],
        }
    )
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 40, 0.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (
        1,
        -1,
        1.2,
    )
    assert (sampling.seed, sampling.top_logprobs) == (2**64 - 5, 3)
    assert (request.stops, request.max_new_tokens) == (("a", "b"), 7)
    assert (request.stream, request.include_usage) == (True, True)
    assert (request.ignore_end, request.min_new_tokens) == (True, 4)
    assert request.stop_ids == {3, 9}


def test_text_parts_are_joined_and_developers_speak_as_system() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    request = read_chat({"model": "m", "messages": [{"role": "developer", "content": parts}]})
    assert request.messages == [{"role": "system", "content": "one\ntwo"}]


@pytest.mark.parametrize(
    ("prompt", "text", "ids"),
    [
        ("Hi", "Hi", None),
        (["Hi"], "Hi", None),
        ([1, 2], None, [1, 2]),
        ([[1, 2]], None, [1, 2]),
    ],
)
def test_a_prompt_may_be_text_or_tokens(prompt: object, text: str | None, ids: list[int] | None) -> None:
    request = read_completion({"model": "m", "prompt": prompt})
    assert (request.prompt, request.prompt_ids) == (text, ids)


def test_harmless_and_unknown_fields_are_ignored() -> None:
    extras = {
        "user": "u",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "none",
        "n": 1,
        "logit_bias": {},
        "modalities": ["text"],
        "reasoning_effort": "low",
        "some_vendors_field": [1],
        "sparkgate": {"speculation": "auto"},
    }
    assert read_chat({**CHAT, **extras}).messages == read_chat(CHAT).messages
