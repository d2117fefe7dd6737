"""The real model behind a real server: OpenAI's own client, disconnects, a full queue, draining."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from engine.fetch import BUNDLED_MODEL
from tests.engine.conftest import EngineProcess, StartEngine

QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
ENDLESS = {"model": BUNDLED_MODEL, "messages": QUESTION, "ignore_eos": True, "max_tokens": 7000}


@pytest.fixture(scope="module")
def client(real_server: EngineProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{real_server.url}/v1", api_key="none", max_retries=0, timeout=120
    ) as client:
        yield client


def test_the_official_client_reads_a_whole_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=BUNDLED_MODEL, messages=QUESTION, temperature=0, max_tokens=20, logprobs=True, top_logprobs=2
    )
    choice = answer.choices[0]
    assert choice.message.content
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 37
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    shown = "".join(entry.token for entry in choice.logprobs.content)
    assert shown == choice.message.content


def test_the_official_client_reads_a_stream(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"model": BUNDLED_MODEL, "messages": QUESTION, "temperature": 0.8, "seed": 5}
    whole = client.chat.completions.create(**settings, max_tokens=24)
    texts: list[str] = []
    usage = None
    with client.chat.completions.create(
        **settings, max_tokens=24, stream=True, stream_options={"include_usage": True}
    ) as chunks:
        for chunk in chunks:
            texts += [choice.delta.content or "" for choice in chunk.choices]
            usage = chunk.usage or usage
    assert "".join(texts) == whole.choices[0].message.content
    assert usage is not None
    assert whole.usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (37, whole.usage.completion_tokens)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 32  # the beginning was computed just before


def test_the_official_client_reads_completions_and_models(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=BUNDLED_MODEL, prompt="One, two, three,", max_tokens=8, temperature=0
    )
    assert "four" in answer.choices[0].text
    assert [model.id for model in client.models.list()] == [BUNDLED_MODEL]


def test_the_official_client_understands_refusals(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-4o", messages=QUESTION)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as too_long:
        client.chat.completions.create(model=BUNDLED_MODEL, messages=QUESTION, max_tokens=9000)
    assert too_long.value.code == "context_length_exceeded"


def test_parallel_answers_are_the_same_as_single_ones(client: openai.OpenAI) -> None:
    def ask(seed: int) -> str:
        answer = client.chat.completions.create(
            model=BUNDLED_MODEL, messages=QUESTION, temperature=0.9, seed=seed, max_tokens=3
        )
        return answer.choices[0].message.content or ""

    single = [ask(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        parallel = list(pool.map(ask, range(4)))
    # Where `auto` is bfloat16, it rounds differently at other batch sizes: a rare draw may fall to a neighbour.
    assert sum(one == other for one, other in zip(single, parallel, strict=True)) >= 3


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(real_server: EngineProcess, stream: bool) -> None:
    """The answer would take minutes, so an empty engine means that it was cancelled."""
    url = f"{real_server.url}/v1/chat/completions"
    if stream:
        with httpx.stream("POST", url, json={**ENDLESS, "stream": True}, timeout=60) as answer:
            lines = answer.iter_lines()  # dropping it would hang up
            next(lines)
            assert real_server.state()["running"] == 1
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=ENDLESS, timeout=2)
    real_server.wait_for_state(lambda state: state["running"] == 0)
    state = real_server.state()
    assert (state["waiting"], state["kv_used_fraction"]) == (0, 0.0)
    metrics = httpx.get(f"{real_server.url}/metrics").text
    assert 'sparkgate_engine_requests_total{finish_reason="cancelled"}' in metrics


def test_a_full_queue_refuses_and_a_signal_lets_open_answers_end(
    start_engine: StartEngine, model_folder: Path
) -> None:
    engine = start_engine(
        *("--model", str(model_folder), "--threads", "1", "--max-batch", "1"),
        *("--max-waiting", "1", "--max-waiting-per-caller", "0"),
    )
    url = f"{engine.url}/v1/chat/completions"
    question = {"model": model_folder.name, "messages": QUESTION, "ignore_eos": True, "max_tokens": 60}
    answers: list[httpx.Response] = []
    headers = {"X-Sparkgate-Caller": "someone"}
    asking = threading.Thread(
        target=lambda: answers.append(httpx.post(url, json=question, headers=headers, timeout=120))
    )
    asking.start()
    engine.wait_for_state(lambda state: state["running"] == 1)
    refused = httpx.post(url, json=question, headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "engine_overloaded")
    assert "of this caller" in refused.json()["error"]["message"]
    assert 1 <= int(refused.headers["retry-after"]) <= 60  # sixty tokens, faster than one a second
    engine.process.terminate()
    engine.wait_for_state(lambda state: state["draining"] is True)
    late = httpx.post(url, json=question)
    assert (late.status_code, late.json()["error"]["code"]) == (503, "engine_draining")
    asking.join(timeout=120)
    assert answers[0].json()["usage"]["completion_tokens"] == 60
    assert engine.process.wait(timeout=30) == 0
    log = engine.log.read_text()
    assert "Traceback" not in log
    assert "capital" not in log
