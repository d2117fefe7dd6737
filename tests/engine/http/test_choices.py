"""Several answers to one prompt, over the wire of a real server with a toy model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.http.requests import MAX_CHOICES
from tests.engine.conftest import EngineProcess, StartEngine

CHAT: dict[str, Any] = {
    "model": "toy",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 12,
    "seed": 2**64 - 2,
    "temperature": 1.5,
}
COMPLETION: dict[str, Any] = {**CHAT, "prompt": "Hello", "messages": None}
ENDPOINTS = [("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION)]
_fresh = count()


@pytest.fixture(scope="module")
def client(toy_server: EngineProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=toy_server.url, timeout=60) as client:
        yield client


def ask(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    parsed: dict[str, Any] = answer.json()
    return parsed


def stream(client: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    text = client.post(path, json={**body, "stream": True}).text
    assert text.count("[DONE]") == 1
    return [json.loads(event.removeprefix("data: ")) for event in text.split("\n\n")[:-2]]


def text_of(choice: dict[str, Any]) -> str:
    said = choice.get("message") or choice.get("delta") or choice
    text: str = said.get("content", said.get("text")) or ""
    return text


@pytest.mark.parametrize(("path", "body"), ENDPOINTS)
def test_each_choice_is_what_its_seed_gives_alone(
    client: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    choices = ask(client, path, {**body, "n": 4})["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    alone = [
        ask(client, path, {**body, "seed": (body["seed"] + at) % 2**64})["choices"][0] for at in range(4)
    ]
    assert [{**choice, "index": 0} for choice in choices] == alone
    assert len(set(map(text_of, choices))) > 1


@pytest.mark.parametrize(("path", "body"), ENDPOINTS)
def test_a_stream_tells_every_choice_from_opening_to_end(
    client: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    asked = {**body, "n": 3, "max_tokens": 30, "stop": ["e", "a"]}
    whole = ask(client, path, asked)
    chunks = stream(client, path, {**asked, "stream_options": {"include_usage": True}})
    assert len({chunk["id"] for chunk in chunks}) == 1
    *parts, last = chunks
    assert all(len(chunk["choices"]) == 1 for chunk in parts)
    for choice in whole["choices"]:
        told = [part["choices"][0] for part in parts if part["choices"][0]["index"] == choice["index"]]
        assert "".join(map(text_of, told)) == text_of(choice)
        reasons = [part["finish_reason"] for part in told]
        assert reasons == [None] * (len(told) - 1) + [choice["finish_reason"]]
        if "delta" in told[0]:
            assert told[0]["delta"] == {"role": "assistant", "content": ""}
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert "sparkgate" in last


def test_choices_come_side_by_side(client: httpx.Client) -> None:
    asked = {**COMPLETION, "n": 3, "max_tokens": 60, "ignore_eos": True}
    order = [chunk["choices"][0]["index"] for chunk in stream(client, "/v1/completions", asked)]
    assert order != sorted(order)


def test_the_last_end_closes_the_stream(client: httpx.Client) -> None:
    chunks = stream(client, "/v1/completions", {**COMPLETION, "n": 3})
    assert ["sparkgate" in chunk for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert sum(chunk["choices"][0]["finish_reason"] is not None for chunk in chunks) == 3


def test_the_prompt_is_read_and_counted_once(client: httpx.Client) -> None:
    def hit_tokens() -> float:
        families = text_string_to_metric_families(client.get("/metrics").text)
        counters = {sample.name: sample.value for family in families for sample in family.samples}
        return counters["sparkgate_engine_prefix_hit_tokens_total"]

    before = hit_tokens()
    asked = {**COMPLETION, "prompt": f"{next(_fresh)} is read once. " * 10, "n": 4, "ignore_eos": True}
    usage = ask(client, "/v1/completions", asked)["usage"]
    assert usage == {
        "prompt_tokens": 160,
        "completion_tokens": 48,
        "total_tokens": 208,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert hit_tokens() - before == 3 * 144, "all full blocks but the one with the last token"


@pytest.mark.parametrize(("path", "body"), ENDPOINTS)
def test_each_choice_has_its_own_logprobs(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    wanted: dict[str, Any] = {"logprobs": True} if "chat" in path else {"logprobs": 0}
    choices = ask(client, path, {**body, **wanted, "n": 3, "ignore_eos": True})["choices"]
    for choice in choices:
        found = choice["logprobs"]
        tokens = found["tokens"] if "tokens" in found else [entry["token"] for entry in found["content"]]
        assert len(tokens) == 12
        assert choice["index"] == 0 or found != choices[0]["logprobs"]


def test_when_the_client_leaves_all_choices_end(toy_server: EngineProcess, client: httpx.Client) -> None:
    asked = {**COMPLETION, "n": 3, "max_tokens": 480, "ignore_eos": True, "stream": True}
    toy_server.wait_for_state(lambda state: state["running"] == state["waiting"] == 0)
    num_before = toy_server.state()["requests_total"]
    with client.stream("POST", "/v1/completions", json=asked) as answer:
        next(answer.iter_lines())
    toy_server.wait_for_state(lambda state: state["requests_total"] == int(str(num_before)) + 3)
    state = toy_server.state()
    assert (state["running"], state["waiting"], state["kv_used_fraction"]) == (0, 0, 0.0)


@pytest.mark.parametrize("stream", [False, True])
def test_without_places_for_all_choices_none_is_answered(
    start_engine: StartEngine, toy_folder: Any, stream: bool
) -> None:
    server = start_engine(
        "--model", str(toy_folder), "--threads", "1", "--max-batch", "1", "--max-waiting", "1"
    )
    body = {**COMPLETION, "ignore_eos": True, "max_tokens": 400, "stream": stream}
    answer = httpx.post(f"{server.url}/v1/completions", json={**body, "n": 4}, timeout=60)
    assert answer.status_code == 429
    assert "retry-after" in answer.headers
    server.wait_for_state(lambda state: state["running"] == state["waiting"] == 0)
    assert (
        httpx.post(f"{server.url}/v1/completions", json={**body, "max_tokens": 2, "n": 2}).status_code == 200
    )


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"n": 0}, "n", "invalid_value"),
        ({"n": MAX_CHOICES + 1}, "n", "invalid_value"),
        ({"n": "2"}, "n", "invalid_type"),
        ({"n": 2, "best_of": 3}, "best_of", "unsupported_parameter"),
        ({"n": 2, "best_of": 1}, "best_of", "unsupported_parameter"),
    ],
)
def test_wrong_numbers_are_named(
    client: httpx.Client, changes: dict[str, Any], param: str, code: str
) -> None:
    answer = client.post("/v1/completions", json={**COMPLETION, **changes})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)


def test_best_of_as_many_is_all_of_them(client: httpx.Client) -> None:
    assert len(ask(client, "/v1/completions", {**COMPLETION, "n": 2, "best_of": 2})["choices"]) == 2
