"""The wire format of answers, byte by byte, from a real server with a toy model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.engine.conftest import EngineProcess

CHAT: dict[str, Any] = {
    "model": "toy",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 12,
    "seed": 3,
}
COMPLETION: dict[str, Any] = {"model": "toy", "prompt": "Hello", "max_tokens": 12, "seed": 3}
ENDPOINTS = [("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION)]
OWN_FIELDS = {"queue_s", "prefill_s", "decode_s", "rounds", "drafted", "verified", "accepted"}
HEAD = {"id", "object", "created", "model", "system_fingerprint", "choices"}


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
    answer = client.post(path, json={**body, "stream": True})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: ") for event in events[:-1])
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


def text_of(chunk: dict[str, Any]) -> str:
    choice = chunk["choices"][0]
    text: str = choice["text"] if "text" in choice else choice["delta"].get("content", "")
    return text


def test_a_chat_answer_has_openais_shape(client: httpx.Client) -> None:
    body = ask(client, "/v1/chat/completions", CHAT)
    assert set(body) == HEAD | {"usage", "sparkgate"}
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    (choice,) = body["choices"]
    assert (choice["index"], choice["logprobs"], choice["message"]["role"]) == (0, None, "assistant")
    assert choice["finish_reason"] in ("stop", "length")
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens"] == len("user\nHello\nassistant\n") + 3  # bytes, and three control tokens


def test_a_completion_has_openais_shape(client: httpx.Client) -> None:
    body = ask(client, "/v1/completions", COMPLETION)
    assert set(body) == HEAD | {"usage", "sparkgate"}
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert set(body["choices"][0]) == {"index", "text", "logprobs", "finish_reason"}
    assert body["usage"]["prompt_tokens"] == 5


def test_a_chat_stream_opens_with_the_role_and_closes_with_the_reason(client: httpx.Client) -> None:
    chunks = stream(client, "/v1/chat/completions", CHAT)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(set(chunk["choices"][0]["delta"]) == {"content"} for chunk in chunks[1:-1])
    assert chunks[-1]["choices"][0]["delta"] == {}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    assert set(chunks[-1]["sparkgate"]) == OWN_FIELDS
    assert not any("usage" in chunk or "sparkgate" in chunk for chunk in chunks[:-1])


@pytest.mark.parametrize(("path", "body"), ENDPOINTS)
def test_usage_comes_in_a_chunk_of_its_own_when_asked_for(
    client: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    ask(client, path, body)  # so that both of the following find the same beginning known
    chunks = stream(client, path, {**body, "stream_options": {"include_usage": True}})
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == ask(client, path, body)["usage"]
    assert "sparkgate" in chunks[-1]
    assert all(chunk["usage"] is None and "sparkgate" not in chunk for chunk in chunks[:-1])


@pytest.mark.parametrize(("path", "body"), ENDPOINTS)
def test_a_stream_says_what_the_whole_answer_says(
    client: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    for seed in range(5):
        asked = {**body, "seed": seed, "max_tokens": 60, "temperature": 1.7}
        choice = ask(client, path, asked)["choices"][0]
        whole = choice["text"] if "text" in choice else choice["message"]["content"]
        chunks = stream(client, path, asked)
        assert "".join(map(text_of, chunks)) == whole
        assert chunks[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]


def test_a_stop_string_is_never_shown(client: httpx.Client) -> None:
    free = ask(client, "/v1/completions", {**COMPLETION, "max_tokens": 40})["choices"][0]["text"]
    stop = free[10:13]
    for asked in (
        {**COMPLETION, "max_tokens": 40, "stop": [stop]},
        {**COMPLETION, "max_tokens": 40, "stop": stop},
    ):
        choice = ask(client, "/v1/completions", asked)["choices"][0]
        assert choice["text"] == free[: free.index(stop)]
        assert choice["finish_reason"] == "stop"
        assert "".join(map(text_of, stream(client, "/v1/completions", asked))) == choice["text"]


def test_chat_logprobs_cover_the_answer(client: httpx.Client) -> None:
    asked = {**CHAT, "logprobs": True, "top_logprobs": 4, "ignore_eos": True}
    whole = ask(client, "/v1/chat/completions", asked)["choices"][0]
    entries = whole["logprobs"]["content"]
    assert len(entries) == 12
    for entry in entries:
        tops = [top["logprob"] for top in entry["top_logprobs"]]
        assert len(tops) == 4
        assert tops == sorted(tops, reverse=True)
        assert entry["logprob"] <= tops[0] <= 0.0
        assert bytes(entry["bytes"]).decode("utf-8", "replace") == entry["token"]
    chunks = stream(client, "/v1/chat/completions", asked)
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    streamed = [entry for part in parts if part for entry in part["content"]]
    assert [entry["token"] for entry in streamed] == [entry["token"] for entry in entries]


def test_logprobs_without_alternatives(client: httpx.Client) -> None:
    body = ask(client, "/v1/chat/completions", {**CHAT, "logprobs": True})
    assert all(entry["top_logprobs"] == [] for entry in body["choices"][0]["logprobs"]["content"])


def test_completion_logprobs_are_lists_of_equal_length(client: httpx.Client) -> None:
    choice = ask(client, "/v1/completions", {**COMPLETION, "logprobs": 3, "ignore_eos": True})["choices"][0]
    logprobs = choice["logprobs"]
    assert {len(values) for values in logprobs.values()} == {12}
    assert set(logprobs) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert logprobs["text_offset"][0] == 0
    assert all(1 <= len(top) <= 3 for top in logprobs["top_logprobs"])


def test_logprobs_end_where_a_stop_string_begins(client: httpx.Client) -> None:
    asked = {**COMPLETION, "max_tokens": 40, "logprobs": 0}
    free = ask(client, "/v1/completions", asked)["choices"][0]["text"]
    stop = free[10:13]
    choice = ask(client, "/v1/completions", {**asked, "stop": stop})["choices"][0]
    assert all(offset < len(choice["text"]) for offset in choice["logprobs"]["text_offset"])


def test_a_seed_repeats_and_no_seed_varies(client: httpx.Client) -> None:
    asked = {**COMPLETION, "temperature": 1.5}
    answers = [ask(client, "/v1/completions", asked)["choices"][0]["text"] for _ in range(3)]
    assert len(set(answers)) == 1
    del asked["seed"]
    assert len({ask(client, "/v1/completions", asked)["choices"][0]["text"] for _ in range(4)}) > 1


def test_without_a_limit_the_answer_may_fill_the_context(client: httpx.Client) -> None:
    asked = {"model": "toy", "prompt": "x" * 480, "ignore_eos": True}
    body = ask(client, "/v1/completions", asked)
    assert body["usage"]["total_tokens"] == 512
    assert body["choices"][0]["finish_reason"] == "length"


def test_metrics_and_state_count_requests(toy_server: EngineProcess, client: httpx.Client) -> None:
    def total() -> float:
        families = {
            family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)
        }
        samples = families["sparkgate_engine_requests"].samples
        return sum(sample.value for sample in samples if sample.name.endswith("_total"))

    before = total()
    ask(client, "/v1/completions", {**COMPLETION, "ignore_eos": True})
    assert total() == before + 1
    state = toy_server.state()
    assert state["requests_total"] == before + 1
    assert set(state) == {
        "model",
        "draining",
        "running",
        "waiting",
        "max_batch",
        "kv_used_fraction",
        "kv_total_tokens",
        "kv_cached_blocks",
        "prefix_hit_rate",
        "max_context_tokens",
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
        "steps_per_s",
        "step_s",
        "drafter",
        "speculation",
        "requests_total",
        "uptime_s",
    }
    assert state["draining"] is False
    assert "1" in state["steps_per_s"]  # type: ignore[operator]


def test_an_answer_tells_its_rounds_and_they_are_counted_by_shape(
    toy_server: EngineProcess, client: httpx.Client
) -> None:
    def rounds() -> float:
        families = text_string_to_metric_families(client.get("/metrics").text)
        counted = {
            (sample.name, *sample.labels.values()): sample.value
            for family in families
            for sample in family.samples
        }
        return counted["sparkgate_engine_shape_rounds_total", "support"]

    before = rounds()
    asked = {**COMPLETION, "ignore_eos": True}
    answer = client.post("/v1/completions", json=asked, headers={"X-Sparkgate-Shape": "support"}).json()
    own = answer["sparkgate"]
    assert set(own) == OWN_FIELDS
    # The first of the twelve tokens is the prompt's; the last round may have ended within its drafts.
    assert 1 <= own["rounds"] <= 11 <= own["rounds"] + own["accepted"]
    assert own["accepted"] <= own["verified"] <= own["drafted"]
    assert rounds() == before + own["rounds"]
    shapes = toy_server.state()["speculation"]["by"]["shape"]  # type: ignore[index]
    assert shapes["support"]["accepted_length"] >= 1.0


def counters(client: httpx.Client) -> dict[str, float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_a_known_beginning_shows_in_usage_metrics_and_state(
    toy_server: EngineProcess, client: httpx.Client
) -> None:
    asked = {**COMPLETION, "prompt": "The same forty characters, said again. " * 3}
    before = counters(client)
    first, second = (ask(client, "/v1/completions", asked)["usage"] for _ in range(2))
    assert first["prompt_tokens"] == second["prompt_tokens"] == 117
    assert first["prompt_tokens_details"] == {"cached_tokens": 0}
    assert second["prompt_tokens_details"] == {"cached_tokens": 112}
    after = counters(client)
    name = "sparkgate_engine_prompt_tokens_total"
    assert after[name] - before[name] == 2 * 117
    name = "sparkgate_engine_prefix_hit_tokens_total"
    assert after[name] - before[name] == 112
    state = toy_server.state()
    hit_rate = after[name] / after["sparkgate_engine_prompt_tokens_total"]
    assert state["prefix_hit_rate"] == pytest.approx(hit_rate, abs=1e-6)
    assert state["kv_used_fraction"] == 0.0
    assert state["kv_cached_blocks"] == after["sparkgate_engine_kv_cached_blocks"]
    assert after["sparkgate_engine_kv_cached_blocks"] >= 8


def test_metrics_have_their_names(client: httpx.Client) -> None:
    ask(client, "/v1/completions", COMPLETION)
    names = {family.name for family in text_string_to_metric_families(client.get("/metrics").text)}
    assert {name.removeprefix("sparkgate_engine_") for name in names} >= {
        "requests",
        "running",
        "waiting",
        "kv_used_fraction",
        "kv_cached_blocks",
        "prompt_tokens",
        "prefix_hit_tokens",
        "completion_tokens",
        "step_seconds",
        "step_phase_seconds",
        "rounds",
        "draft_tokens",
        "verified_tokens",
        "accepted_tokens",
        "committed_tokens",
        "queue_seconds",
        "prefill_seconds",
        "time_to_first_token_seconds",
        "preemptions",
    }


def test_health_is_ok(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "ok"}


PAINT = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "blue"]},
        "coats": {"type": "integer", "maximum": 9, "minimum": 0},
    },
    "required": ["colour", "coats"],
    "additionalProperties": False,
}
PAINT_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "paint", "schema": PAINT, "strict": True},
}


@pytest.mark.parametrize(("path", "body"), ENDPOINTS)
@pytest.mark.parametrize("changes", [{}, {"temperature": 0}, {"ignore_eos": True, "presence_penalty": 2}])
def test_an_answer_matches_its_schema_and_ends(
    client: httpx.Client, path: str, body: dict[str, Any], changes: dict[str, Any]
) -> None:
    for seed in range(4):
        asked = {**body, **changes, "seed": seed, "max_tokens": 200, "response_format": PAINT_FORMAT}
        choice = ask(client, path, asked)["choices"][0]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        answer = json.loads(text)
        assert list(answer) == ["colour", "coats"]
        assert answer["colour"] in ("red", "blue")
        assert answer["coats"] in range(10)
        assert choice["finish_reason"] == "stop"
        assert "".join(map(text_of, stream(client, path, asked))) == text


def test_any_object_begins_as_one(client: httpx.Client) -> None:
    asked = {**CHAT, "response_format": {"type": "json_object"}}
    assert ask(client, "/v1/chat/completions", asked)["choices"][0]["message"]["content"].startswith("{")


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_that_cannot_be_enforced_is_refused(client: httpx.Client, stream: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "thing"}}}
    answer = client.post("/v1/chat/completions", json={**CHAT, "response_format": form, "stream": stream})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "response_format.json_schema.schema"
    assert "Invalid type: thing" in error["message"]


def test_a_bias_decides(client: httpx.Client) -> None:
    asked = {**COMPLETION, "logit_bias": {"65": 100}, "max_tokens": 5}
    free, biased = (
        ask(client, "/v1/completions", body)["choices"][0]["text"] for body in (COMPLETION, asked)
    )
    assert len(set(biased)) == 1
    assert len(set(free)) > 1
