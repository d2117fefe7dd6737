"""Responses calls: what the router gets to know, and how one that goes on from another finds its way."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.dispatch.call import Call
from gateway.surfaces.common import Asked
from gateway.surfaces.homes import ResponseHomes
from gateway.surfaces.responses import call_of
from gateway.wire.errors import BadRequest
from gateway.wire.paths import RESPONSES
from router.catalog import Target
from tests.fakes import Answer, body
from tests.gateway.conftest import Gateway, Run
from tests.gateway.surfaces.native_upstream import response_value, speak
from tests.gateway.surfaces.rich_bodies import RESPONSES as RICH

Prepare = Callable[..., Run]
NATIVE = {"endpoints": [RESPONSES]}
HELLO = {"model": "auto", "input": "hello"}


def call(given: dict[str, Any], homes: ResponseHomes | None = None) -> Call:
    whole = {**HELLO, **given}
    return call_of(
        Asked(RESPONSES, {}, json.dumps(whole).encode(), whole, "web", homes=homes or ResponseHomes(()))
    )


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"model": 1}, "model"),
        ({"input": 3}, "input"),
        ({"input": {"role": "user"}}, "input"),
        ({"stream": "yes"}, "stream"),
        ({"previous_response_id": ["resp_1"]}, "previous_response_id"),
        ({"metadata": {"deadline_ms": "soon"}}, "X-Deadline-Ms"),
    ],
)
def test_wrong_calls_are_refused_with_the_parameter_named(given: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        call(given)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({}, "input_tokens", 1 + 4),
        ({"instructions": "x" * 40}, "input_tokens", 11 + 4),
        ({"input": [{"role": "user", "content": "x" * 400}] * 2}, "input_tokens", 200 + 8),
        ({"input": [{"type": "function_call", "arguments": "x" * 400}]}, "input_tokens", 100 + 4),
        ({"input": [{"type": "function_call_output", "output": "x" * 400}]}, "input_tokens", 100 + 4),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "has_tool_messages", True),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "has_images", True),
        ({"text": {"format": {"type": "json_schema"}}}, "wants_json", True),
        ({"text": {"format": {"type": "text"}}}, "wants_json", False),
        ({"tools": [{"type": "function"}]}, "has_tools", True),
        ({"max_output_tokens": 7}, "max_output_tokens", 7),
    ],
)
def test_what_the_router_gets_to_know(given: dict[str, Any], field: str, value: object) -> None:
    assert getattr(call(given).query, field) == value


def test_tools_take_room_in_a_context() -> None:
    assert call(RICH).query.input_tokens > call({**RICH, "tools": []}).query.input_tokens + 40


def test_a_call_that_a_provider_acts_on_is_sent_once() -> None:
    assert call({"tools": [{"type": "function"}, {"type": "custom"}]}).is_repeatable
    assert not call({"tools": [{"type": "web_search"}]}).is_repeatable
    assert not call({"background": True}).is_repeatable


def test_where_a_response_came_from_is_read_off_bodies_and_streams() -> None:
    homes = ResponseHomes(("a", "b"))
    target = Target("a", "openai", "m", native=frozenset({RESPONSES}))
    wire = call({}, homes).form_for(target).wire
    wire.usage_of(response_value("resp_whole", []))
    wire.read_event(
        b"data: "
        + json.dumps({"type": "response.created", "response": response_value("resp_stream", [])}).encode()
    )
    wire.usage_of(response_value("resp_unstored", [], store=False))
    wire.read_event(b'data: {"type": "response.output_text.delta", "id": "resp_none", "delta": "x"}')
    names = ("resp_whole", "resp_stream", "resp_unstored", "resp_none")
    assert [homes.of(each, "web") for each in names] == ["a", "a", None, None]
    assert call({"previous_response_id": "resp_whole"}, homes).query.target == "a"


def test_a_response_goes_on_where_it_began(with_gateway: Prepare) -> None:
    """Whatever the policy would choose; so do those whose beginning was streamed."""

    async def test(gateway: Gateway) -> None:
        gateway.fakes["b"].script = [naming("resp_1"), speak, speak, speak]
        assert await target_of(gateway, model="b") == "b"
        assert await target_of(gateway, previous_response_id="resp_1") == "b"
        status, _, raw = await gateway.post({**HELLO, "model": "b", "stream": True}, RESPONSES)
        created = json.loads(raw.split(b"data: ", 1)[1].split(b"\n", 1)[0])
        assert (status, created["type"]) == (200, "response.created")
        assert await target_of(gateway, previous_response_id=created["response"]["id"]) == "b"
        assert gateway.fakes["a"].calls == []
        assert gateway.fakes["b"].calls[1]["previous_response_id"] == "resp_1"

    policy = "version: 1\nshapes: {general: {candidates: [a]}}\n"
    with_gateway(policy, ("a", "b"), limits={"a": NATIVE, "b": NATIVE})(test)


def test_targets_that_keep_nothing_say_so(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        status, _, raw = await gateway.post({**HELLO, "previous_response_id": "resp_1"}, RESPONSES)
        said = json.loads(raw)["error"]
        assert (status, said["param"], said["code"]) == (400, "previous_response_id", "unsupported_parameter")

    with_gateway()(test)


def naming(response_id: str) -> Answer:
    return body(response_value(response_id, []))


async def target_of(gateway: Gateway, **given: Any) -> str:
    status, headers, raw = await gateway.post({**HELLO, **given}, RESPONSES)
    assert status == 200, raw
    return headers["x-sparkgate-target"]
