"""Every kind of wrong input against a real server, which must answer OpenAI's error JSON and stay up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.http.app import build_app
from engine.http.bridge import Bridge
from engine.http.generate import Served
from engine.http.prompts import PromptReader
from engine.loop import Engine
from engine.metrics import EngineMetrics
from engine.model import Llama
from engine.observer import StepTimes
from engine.sequence import Round
from engine.tokenizer import ModelTokenizer
from tests.engine.conftest import EngineProcess
from tests.engine.toy import MAX_POSITIONS, make_engine, make_sequence

MESSAGES = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "f"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}


@pytest.fixture(scope="module")
def client(toy_server: EngineProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=toy_server.url, timeout=30) as client:
        yield client


def assert_error(answer: httpx.Response, status: int, param: str | None, code: str | None) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (answer.status_code, error["param"], error["code"]) == (status, param, code), error["message"]
    assert "Traceback" not in answer.text
    assert error["message"]
    return error


WRONG_CHATS: list[tuple[dict[str, Any], int, str, str]] = [
    ({"model": None}, 400, "model", "missing_required_parameter"),
    ({"model": 5}, 400, "model", "invalid_type"),
    ({"model": "gpt-4o"}, 404, "model", "model_not_found"),
    ({"messages": None}, 400, "messages", "missing_required_parameter"),
    ({"messages": "Hi"}, 400, "messages", "invalid_type"),
    ({"messages": []}, 400, "messages", "invalid_value"),
    ({"messages": ["Hi"]}, 400, "messages[0]", "invalid_type"),
    ({"messages": [{"content": "Hi"}]}, 400, "messages[0].role", "missing_required_parameter"),
    ({"messages": [{"role": "wizard", "content": "Hi"}]}, 400, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": 1, "content": "Hi"}]}, 400, "messages[0].role", "invalid_type"),
    (
        {"messages": [{"role": "tool", "content": "4"}]},
        400,
        "messages[0].tool_call_id",
        "missing_required_parameter",
    ),
    ({"messages": [*MESSAGES, {"role": "user"}]}, 400, "messages[1].content", "missing_required_parameter"),
    ({"messages": [{"role": "user", "content": 7}]}, 400, "messages[0].content", "invalid_type"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, 400, "messages[0].content[0]", "invalid_type"),
    (
        {"messages": [{"role": "user", "content": [IMAGE]}]},
        400,
        "messages[0].content[0].type",
        "unsupported_parameter",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        400,
        "messages[0].content[0].text",
        "missing_required_parameter",
    ),
    (
        {"messages": [{"role": "assistant", "content": "", "tool_calls": [TOOL]}]},
        400,
        "messages[0].tool_calls[0].id",
        "missing_required_parameter",
    ),
    ({"max_tokens": -1}, 400, "max_tokens", "invalid_value"),
    ({"max_tokens": 0}, 400, "max_tokens", "invalid_value"),
    ({"max_tokens": "10"}, 400, "max_tokens", "invalid_type"),
    ({"max_tokens": 1.5}, 400, "max_tokens", "invalid_type"),
    ({"max_tokens": True}, 400, "max_tokens", "invalid_type"),
    ({"max_completion_tokens": -3}, 400, "max_completion_tokens", "invalid_value"),
    ({"max_tokens": MAX_POSITIONS}, 400, "messages", "context_length_exceeded"),
    ({"max_tokens": 10**18}, 400, "messages", "context_length_exceeded"),
    (
        {"messages": [{"role": "user", "content": "x" * MAX_POSITIONS}]},
        400,
        "messages",
        "context_length_exceeded",
    ),
    (
        {"messages": [{"role": "user", "content": "x" * 3_000_000}]},
        400,
        "messages",
        "context_length_exceeded",
    ),
    ({"temperature": -0.1}, 400, "temperature", "invalid_value"),
    ({"temperature": 2.1}, 400, "temperature", "invalid_value"),
    ({"temperature": "hot"}, 400, "temperature", "invalid_type"),
    ({"top_p": 1.1}, 400, "top_p", "invalid_value"),
    ({"top_p": []}, 400, "top_p", "invalid_type"),
    ({"top_k": -2}, 400, "top_k", "invalid_value"),
    ({"top_k": 1.5}, 400, "top_k", "invalid_type"),
    ({"min_p": 2}, 400, "min_p", "invalid_value"),
    ({"presence_penalty": 3}, 400, "presence_penalty", "invalid_value"),
    ({"frequency_penalty": -3}, 400, "frequency_penalty", "invalid_value"),
    ({"repetition_penalty": 0}, 400, "repetition_penalty", "invalid_value"),
    ({"seed": "x"}, 400, "seed", "invalid_type"),
    ({"seed": 2**64}, 400, "seed", "invalid_type"),
    ({"stop": 5}, 400, "stop", "invalid_type"),
    ({"stop": [5]}, 400, "stop", "invalid_type"),
    ({"stop": ""}, 400, "stop", "invalid_value"),
    ({"stop": list("abcde")}, 400, "stop", "invalid_value"),
    ({"stream": "yes"}, 400, "stream", "invalid_type"),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options", "invalid_value"),
    ({"stream": True, "stream_options": 1}, 400, "stream_options", "invalid_type"),
    (
        {"stream": True, "stream_options": {"include_usage": 1}},
        400,
        "stream_options.include_usage",
        "invalid_type",
    ),
    ({"logprobs": 3}, 400, "logprobs", "invalid_type"),
    ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", "invalid_value"),
    ({"top_logprobs": 2}, 400, "top_logprobs", "invalid_value"),
    ({"n": 9}, 400, "n", "invalid_value"),
    ({"n": 0}, 400, "n", "invalid_value"),
    ({"tools": [TOOL, TOOL]}, 400, "tools[1].function.name", "invalid_value"),
    ({"tools": [TOOL], "tool_choice": "any"}, 400, "tool_choice", "invalid_value"),
    ({"tool_choice": "required"}, 400, "tool_choice", "invalid_value"),
    ({"functions": [{"name": "f"}]}, 400, "functions", "unsupported_parameter"),
    ({"logit_bias": {"x": 1}}, 400, "logit_bias", "invalid_value"),
    ({"logit_bias": {"264": 1}}, 400, "logit_bias", "invalid_value"),
    ({"logit_bias": {"5": 101}}, 400, "logit_bias.5", "invalid_value"),
    ({"logit_bias": 5}, 400, "logit_bias", "invalid_type"),
    ({"response_format": {"type": "yaml"}}, 400, "response_format.type", "invalid_value"),
    ({"response_format": "json"}, 400, "response_format", "invalid_type"),
    ({"modalities": ["text", "audio"]}, 400, "modalities", "unsupported_parameter"),
    ({"audio": {"voice": "x"}}, 400, "audio", "unsupported_parameter"),
    ({"min_tokens": -1}, 400, "min_tokens", "invalid_value"),
    ({"min_tokens": 1.0}, 400, "min_tokens", "invalid_type"),
    ({"min_tokens": 6, "max_tokens": 5}, 400, "min_tokens", "invalid_value"),
    ({"min_tokens": MAX_POSITIONS}, 400, "min_tokens", "invalid_value"),
    ({"ignore_eos": "yes"}, 400, "ignore_eos", "invalid_type"),
    ({"stop_token_ids": 5}, 400, "stop_token_ids", "invalid_type"),
    ({"stop_token_ids": [1, True]}, 400, "stop_token_ids", "invalid_type"),
    ({"stop_token_ids": [264]}, 400, "stop_token_ids", "invalid_value"),
    ({"stop_token_ids": [-1]}, 400, "stop_token_ids", "invalid_value"),
    ({"stop_token_ids": list(range(264)), "min_tokens": 1}, 400, "stop_token_ids", "invalid_value"),
    ({"sparkgate": "off"}, 400, "sparkgate", "invalid_type"),
    ({"sparkgate": {"speculation": "maybe"}}, 400, "sparkgate.speculation", "invalid_value"),
]

WRONG_COMPLETIONS: list[tuple[dict[str, Any], int, str, str]] = [
    ({"prompt": None}, 400, "prompt", "missing_required_parameter"),
    ({"prompt": 5}, 400, "prompt", "invalid_type"),
    ({"prompt": [1.5]}, 400, "prompt", "invalid_type"),
    ({"prompt": [True]}, 400, "prompt", "invalid_type"),
    ({"prompt": ""}, 400, "prompt", "invalid_value"),
    ({"prompt": []}, 400, "prompt", "invalid_value"),
    ({"prompt": ["a", "b"]}, 400, "prompt", "unsupported_parameter"),
    ({"prompt": [264]}, 400, "prompt", "invalid_value"),
    ({"prompt": [-1]}, 400, "prompt", "invalid_value"),
    ({"prompt": [1] * (MAX_POSITIONS + 1)}, 400, "prompt", "context_length_exceeded"),
    ({"logprobs": 6}, 400, "logprobs", "invalid_value"),
    ({"logprobs": True}, 400, "logprobs", "invalid_type"),
    ({"echo": True}, 400, "echo", "unsupported_parameter"),
    ({"suffix": "x"}, 400, "suffix", "unsupported_parameter"),
    ({"best_of": 2}, 400, "best_of", "unsupported_parameter"),
    ({"max_tokens": -5}, 400, "max_tokens", "invalid_value"),
    ({"model": "x"}, 404, "model", "model_not_found"),
]


@pytest.mark.parametrize(("changes", "status", "param", "code"), WRONG_CHATS)
def test_wrong_chats(
    client: httpx.Client, changes: dict[str, Any], status: int, param: str, code: str
) -> None:
    answer = client.post("/v1/chat/completions", json={"model": "toy", "messages": MESSAGES, **changes})
    assert assert_error(answer, status, param, code)["type"] == "invalid_request_error"


@pytest.mark.parametrize(("changes", "status", "param", "code"), WRONG_COMPLETIONS)
def test_wrong_completions(
    client: httpx.Client, changes: dict[str, Any], status: int, param: str, code: str
) -> None:
    answer = client.post("/v1/completions", json={"model": "toy", "prompt": "Hi", **changes})
    assert assert_error(answer, status, param, code)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b'"x"', b"\xff\xfe", b'{"model": NaN}', b'{"model":"toy","prompt":"\\ud800"}']
)
def test_bodies_that_are_no_json_object(client: httpx.Client, body: bytes) -> None:
    assert_error(client.post("/v1/completions", content=body), 400, None, "invalid_json")


def test_a_huge_body_is_refused(client: httpx.Client) -> None:
    answer = client.post("/v1/completions", content=b" " * (17 * 1024 * 1024))
    assert_error(answer, 413, None, "request_too_large")


def test_a_callers_name_has_a_limit(client: httpx.Client) -> None:
    body = {"model": "toy", "prompt": "Hi", "max_tokens": 0}
    answer = client.post("/v1/completions", json=body, headers={"X-Sparkgate-Caller": "x" * 201})
    assert_error(answer, 400, "x-sparkgate-caller", "invalid_value")


def test_unknown_paths_models_and_methods(client: httpx.Client) -> None:
    assert_error(client.get("/v1/nothing"), 404, None, "unknown_url")
    assert_error(client.get("/v1/chat/completions"), 405, None, "method_not_allowed")
    assert_error(client.get("/v1/models/other"), 404, "model", "model_not_found")


def test_models_are_listed(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["toy"]
    assert client.get("/v1/models/toy").json() == listed["data"][0]


@pytest.fixture
def engine(toy_model: Llama) -> Engine:
    """Not run: what it did is reported by the test."""
    return make_engine(toy_model)


def state_of(engine: Engine, metrics: EngineMetrics, folder: Path) -> dict[str, Any]:
    """`/state` of an app over this engine."""

    async def ask() -> dict[str, Any]:
        prompts = PromptReader(ModelTokenizer(folder), frozenset(), 264, engine.max_context)
        served = Served("toy", "fp", engine, Bridge(asyncio.get_running_loop()), prompts)
        transport = httpx.ASGITransport(build_app(served, metrics))
        async with httpx.AsyncClient(transport=transport, base_url="http://toy") as client:
            answer: dict[str, Any] = (await client.get("/state")).json()
            return answer

    return asyncio.run(ask())


def test_state_says_null_where_nothing_was_measured(engine: Engine, toy_folder: Path) -> None:
    state = state_of(engine, EngineMetrics(engine), toy_folder)
    assert state["drafter"] is None
    assert state["step_s"] == dict.fromkeys(("draft", "verify", "sample", "overhead"))
    assert state["speculation"] == {
        "accepted_length": None,
        "proposal_length": None,
        "verified_length": None,
        "waste": None,
        "survival": [],
        "by": {"shape": {}, "temperature": {}, "concurrency": {}, "context": {}},
    }


def test_state_tells_what_speculation_yields(engine: Engine, toy_folder: Path) -> None:
    metrics = EngineMetrics(engine)
    metrics.step_done(StepTimes(0.01, 0.03, 0.004, 0.002))
    sequence = make_sequence("a", [1] * 10)
    sequence.shape = "support"
    metrics.round_done(sequence, Round(4, 4, 2, 3), 3)
    state = state_of(engine, metrics, toy_folder)
    assert state["step_s"] == {"draft": 0.01, "verify": 0.03, "sample": 0.004, "overhead": 0.002}
    figures = {
        "accepted_length": 3.0,
        "proposal_length": 4.0,
        "verified_length": 4.0,
        "waste": 0.5,
        "survival": [1.0, 1.0, 0.0, 0.0],
    }
    by = {"shape": "support", "temperature": "0", "concurrency": "2-4", "context": "<=256"}
    assert state["speculation"] == {
        **figures,
        "by": {dimension: {band: figures} for dimension, band in by.items()},
    }


def test_what_is_refused_never_ran(client: httpx.Client, toy_server: EngineProcess) -> None:
    toy_server.wait_for_state(lambda state: state["running"] == state["waiting"] == 0)
    num_before = toy_server.state()["requests_total"]
    changes: list[dict[str, Any]] = [{"messages": []}, {"max_tokens": -5}, {"temperature": "hot"}]
    for wrong in changes:
        answer = client.post("/v1/chat/completions", json={"model": "toy", "messages": MESSAGES, **wrong})
        assert answer.status_code == 400
    state = toy_server.state()
    assert (state["running"], state["waiting"], state["kv_used_fraction"]) == (0, 0, 0.0)
    assert state["requests_total"] == num_before
