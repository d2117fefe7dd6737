"""What callers may send, what is refused, and what becomes of our own names on the way up."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.dispatch.call import Call
from gateway.surfaces.chat import call_of
from gateway.surfaces.common import Asked
from gateway.wire.errors import BadRequest
from gateway.wire.paths import CHAT
from router.catalog import Target
from tests.gateway.conftest import HELLO, Gateway, Run

Prepare = Callable[..., Run]
UPSTREAM = Target("a", "openai", "a-model")
ENGINE = Target("engine", "engine", "small")


def call(body: dict[str, Any], **headers: str) -> Call:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    whole = {**HELLO, **body}
    return call_of(Asked(CHAT, given, json.dumps(whole).encode(), whole, "web"))


def sent(asked: Call, target: Target = UPSTREAM) -> dict[str, Any]:
    """What the target gets."""
    value: dict[str, Any] = json.loads(asked.form_for(target).body)
    return value


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
        ({"messages": "hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"content": "no role"}]}, "messages[0]"),
        ({"stream": "yes"}, "stream"),
        ({"metadata": {"task_shape": "chatty"}}, "X-Task-Shape"),
        ({"metadata": {"deadline_ms": "soon"}}, "X-Deadline-Ms"),
        ({"metadata": {"task_id": "t" * 257}}, "task_id"),
        ({"metadata": {"slo_ttft_ms": "-1"}}, "X-Slo-Ttft-Ms"),
    ],
)
def test_wrong_calls_are_refused_with_the_parameter_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        call(body)
    assert refused.value.param == param


def test_headers_beat_metadata_and_both_tell_the_router() -> None:
    metadata = {"task_id": "t1", "workflow": "w1", "task_shape": "support", "team": "blue"}
    query = call({"metadata": metadata}, x_task_id="t2", x_slo_ttft_ms="250").query
    assert (query.task_id, query.workflow, query.declared_shape) == ("t2", "w1", "support")
    assert query.slo_ttft_s == 0.25
    assert query.metadata["team"] == "blue"


def test_a_role_in_the_task_is_ours_and_any_other_role_is_the_apps() -> None:
    asked = call({"metadata": {"role": "draft", "team": "blue"}})
    assert asked.query.role == "draft"
    assert sent(asked)["metadata"] == {"team": "blue"}
    theirs = call({"metadata": {"role": "admin"}})
    assert theirs.query.role is None
    assert sent(theirs)["metadata"] == {"role": "admin"}
    assert call({"metadata": {"role": "draft"}}, x_task_role="final").query.role == "final"
    with pytest.raises(BadRequest) as refused:
        call({}, x_task_role="finale")
    assert refused.value.param == "X-Task-Role"


def test_our_names_do_not_reach_an_upstream_but_the_engine_gets_its_field() -> None:
    asked = call({"metadata": {"task_id": "t1", "team": "blue"}, "sparkgate": {"speculation": "off"}})
    assert sent(asked) == {**HELLO, "metadata": {"team": "blue"}, "model": "a-model"}
    assert sent(asked, ENGINE)["sparkgate"] == {"speculation": "off"}
    emptied = call({"metadata": {"task_id": "t1"}})
    assert "metadata" not in sent(emptied)


def test_the_callers_body_is_not_changed_by_making_another() -> None:
    asked = call({"stream": True, "stream_options": {"include_usage": False, "x": 1}})
    assert sent(asked)["stream_options"] == {"include_usage": True, "x": 1}
    assert not asked.wants_usage


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model": "auto", "messages": [{"role": "user", "content": "\\"model\\": \\"x\\""}], "x": 1234567890123456}',
        b'{"messages": [{"role": "user", "content": "hi"}],\n "model" : "au\\u0074o" }  ',
        b'{"model": "auto", "messages": [{"role": "user", "content": "hi"}], "x": {"model": "kept"}}',
        b'{"model": "auto", "messages": [{"role": "user", "content": "hi"}], "stream": true, "n": 1.10}',
        b'{"x": {"model": "kept"}, "messages": [{"role": "user", "content": "hi"}], "mod\\u0065l": "big"}',
        b'{"model": "auto", "metadata": {"team": "blue"}, "messages": [{"role": "user", "content": "hi"}]}',
        b'{"stream":true,"messages":[{"role":"user","content":"}"}],"model":"auto"}\n',
    ],
)
def test_the_body_goes_up_as_it_came_but_for_the_name_of_the_model(raw: bytes) -> None:
    given = json.loads(raw)
    target = Target("a", "openai", 'odd "name" \\ of a model')
    body = call_of(Asked(CHAT, {}, raw, given, "web")).form_for(target).body
    asked_for_usage = {"stream_options": {"include_usage": True}} if given.get("stream") else {}
    assert json.loads(body) == {**given, "model": target.model, **asked_for_usage}
    if b"kept" not in raw:
        assert raw.partition(b'"messages"')[2].partition(b"]")[0] in body


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({"tools": [{"type": "function"}]}, "has_tools", True),
        ({"messages": [{"role": "tool", "content": "x"}]}, "has_tool_messages", True),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "has_tool_messages", True),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "has_images", True),
        ({"response_format": {"type": "json_schema"}}, "wants_json", True),
        ({"response_format": {"type": "text"}}, "wants_json", False),
        ({"max_tokens": 5}, "max_output_tokens", 5),
        ({"max_tokens": 5, "max_completion_tokens": 7}, "max_output_tokens", 7),
        ({"messages": [{"role": "user", "content": "x" * 400}]}, "input_tokens", 104),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 400}]}]},
            "input_tokens",
            104,
        ),
    ],
)
def test_what_the_router_gets_to_know(body: dict[str, Any], field: str, value: object) -> None:
    assert getattr(call(body).query, field) == value


def test_no_key_a_wrong_key_and_a_key_without_scope(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.headers = {}
        status, _, raw = await gateway.post(HELLO)
        assert (status, json.loads(raw)["error"]["code"]) == (401, "missing_api_key")
        status, _, raw = await gateway.post(HELLO, authorization="Bearer sg-wrong")
        assert (status, json.loads(raw)["error"]["code"]) == (401, "invalid_api_key")
        assert gateway.exchanges() == []

    with_gateway()(test)


def test_bodies_that_are_no_json_object_or_too_large(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        for raw in (b"{oops", b"[1]", b'"text"', b"", b"\xff\xfe"):
            async with gateway.session.post(
                gateway.url + CHAT, data=raw, headers=gateway.headers
            ) as response:
                assert response.status == 400
                assert (await response.json())["error"]["code"] == "invalid_json"
        large = b'{"x": "' + b"y" * (21 * 1024 * 1024) + b'"}'
        async with gateway.session.post(
            gateway.url + CHAT, data=io.BytesIO(large), headers=gateway.headers
        ) as response:
            assert response.status == 413

    with_gateway()(test)


def test_the_shape_of_an_undeclared_call_is_inferred_from_its_text(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        text = "Where is my order? It should have arrived last week and I want a refund."
        status, _, raw = await gateway.post({**HELLO, "messages": [{"role": "user", "content": text}]})
        assert status == 200, raw
        (record,) = gateway.exchanges()
        exchange = record["exchange"]
        assert (exchange["shape"], exchange["shape_source"]) == ("support", "inferred")
        assert 0.5 < exchange["decision"]["shape_confidence"] <= 1.0
        assert text not in json.dumps(record)

    with_gateway()(test)


def test_names_that_apps_use_are_served_and_unknown_ones_refused_if_so_configured(
    with_gateway: Prepare,
) -> None:
    async def test(gateway: Gateway) -> None:
        for model, expected in (
            ("gpt-4o", 200),
            ("claude-3", 200),
            ("auto/support", 200),
            ("a", 200),
            ("b7", 404),
        ):
            status, _, raw = await gateway.post({**HELLO, "model": model})
            assert status == expected, raw
        assert json.loads(raw)["error"]["code"] == "model_not_found"
        shapes = [record["exchange"]["shape"] for record in gateway.exchanges()]
        assert shapes == ["short_chat", "code_generation", "support", "short_chat", None]
        _, models = await gateway.get("/v1/models")
        names = [model["id"] for model in models["data"]]
        assert {"auto", "auto/support", "a", "gpt-4o"} <= set(names)
        assert "claude-*" not in names

    models = {"gpt-4o": "auto", "claude-*": "auto/code_generation"}
    with_gateway(models=models, unknown_model="reject")(test)
