"""Messages calls: what is refused, what the router gets to know, what becomes of other targets' thinking."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.dispatch.call import Call
from gateway.surfaces.common import Asked
from gateway.surfaces.messages import call_of
from gateway.wire.errors import BadRequest
from gateway.wire.paths import MESSAGES
from router.catalog import Kind, Target
from tests.gateway.surfaces.rich_bodies import MESSAGES as RICH

HELLO: dict[str, Any] = {
    "model": "auto",
    "max_tokens": 5,
    "messages": [{"role": "user", "content": "hello"}],
}
CLAUDE = Target("claude", "anthropic", "claude-1", native=frozenset({MESSAGES}))


def call(given: dict[str, Any], **headers: str) -> Call:
    whole = {**HELLO, **given}
    return call_of(Asked(MESSAGES, headers, json.dumps(whole).encode(), whole, "web", "beta=true"))


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"model": None}, "model"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages"),
        ({"messages": []}, "messages"),
        ({"stream": 1}, "stream"),
    ],
)
def test_wrong_calls_are_refused_with_the_parameter_named(given: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        call(given)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        (user({"type": "text", "text": "x" * 400}), "input_tokens", 104),
        ({"system": [{"type": "text", "text": "x" * 395}]}, "input_tokens", 104),
        (
            user({"type": "tool_result", "content": [{"type": "text", "text": "x" * 400}]}),
            "input_tokens",
            104,
        ),
        (user({"type": "tool_use", "input": {"path": "x" * 389}}), "input_tokens", 104),
        (user({"type": "tool_result"}), "has_tool_messages", True),
        (user({"type": "image"}), "has_images", True),
        (user({"type": "tool_result", "content": [{"type": "image"}]}), "has_images", True),
        ({"tools": [{"name": "t"}]}, "has_tools", True),
        ({"output_config": {"format": {}}}, "wants_json", True),
        ({"output_config": {"effort": "low"}}, "wants_json", False),
        ({"max_tokens": 7}, "max_output_tokens", 7),
    ],
)
def test_what_the_router_gets_to_know(given: dict[str, Any], field: str, value: object) -> None:
    assert getattr(call(given).query, field) == value


def test_tools_take_room_in_a_context() -> None:
    assert call(RICH).query.input_tokens > call({**RICH, "tools": []}).query.input_tokens + 30


def test_a_call_with_the_providers_own_tools_is_sent_once() -> None:
    assert call({"tools": [{"name": "t"}, {"type": "bash_20250124", "name": "bash"}]}).is_repeatable
    assert not call({"tools": [{"type": "web_search_20260209", "name": "web_search"}]}).is_repeatable
    assert not call({"mcp_servers": [{"name": "files"}]}).is_repeatable


def test_a_native_target_gets_what_it_would_have_got_from_the_caller() -> None:
    form = call(HELLO, **{"anthropic-beta": "b1", "x-app": "cli", "traceparent": "t"}).form_for(CLAUDE)
    assert form.path == "/v1/messages?beta=true"
    assert form.headers == {"anthropic-version": "2023-06-01", "anthropic-beta": "b1", "traceparent": "t"}
    assert form.body == json.dumps({**HELLO, "model": "claude-1"}).encode()


@pytest.mark.parametrize("kind", ["engine", "vllm", "sglang"])
def test_self_hosted_targets_are_sent_what_they_know_beyond_chat(kind: Kind) -> None:
    sent = json.loads(call({"top_k": 5, "max_tokens": 7}).form_for(Target("a", kind, "m")).body)
    assert (sent["top_k"], sent["max_completion_tokens"]) == (5, 7)


def test_a_target_that_must_get_every_parameter_refuses_a_call_that_loses_one() -> None:
    asked = call({"top_k": 5})
    lenient, strict = (Target("a", "openai", "m", refuses_unsupported=strict) for strict in (False, True))
    assert "top_k" not in json.loads(asked.form_for(lenient).body)
    with pytest.raises(BadRequest) as refused:
        asked.form_for(strict)
    assert (refused.value.param, refused.value.code) == ("top_k", "unsupported_parameter")


def test_metadata_passes_unchanged_unless_some_of_it_is_ours() -> None:
    raw = call({"metadata": {"user_id": "u"}}).form_for(CLAUDE).body
    assert raw == json.dumps({**HELLO, "model": "claude-1", "metadata": {"user_id": "u"}}).encode()
    ours = call({"metadata": {"user_id": "u", "task_id": "t"}}).form_for(CLAUDE).body
    assert json.loads(ours)["metadata"] == {"user_id": "u"}


def test_only_anthropic_gets_its_own_thinking_back() -> None:
    thinking = [{"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "text", "text": "Hi"}]
    turns = [*HELLO["messages"], {"role": "assistant", "content": thinking}, *HELLO["messages"]]
    said = json.loads(call({"messages": turns}).form_for(CLAUDE).body)["messages"]
    assert said[1]["content"] == thinking[1:]
    signed = [{**thinking[0], "signature": "s"}, thinking[1]]
    turns[1] = {"role": "assistant", "content": signed}
    assert json.loads(call({"messages": turns}).form_for(CLAUDE).body)["messages"][1]["content"] == signed


def test_calls_are_equal_only_under_the_same_betas() -> None:
    certain = {"temperature": 0}
    plain, beta = call(certain), call(certain, **{"anthropic-beta": "b1"})
    assert plain.fingerprint() == call({**certain, "metadata": {"user_id": "u"}}).fingerprint()
    assert None is not plain.fingerprint() != beta.fingerprint()
    assert call({"temperature": 1}).fingerprint() is None
