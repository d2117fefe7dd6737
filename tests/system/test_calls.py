"""Real calls through the real product: official clients, the ledger's row, failover, policy edits while running.

Two targets: the bundled engine, and a second engine process as a plain OpenAI-compatible upstream.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Literal

import anthropic
import httpx
import openai
import psycopg
import pytest
from anthropic import Anthropic
from openai import AsyncOpenAI, OpenAI
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel
from sqlalchemy import make_url

from gateway.ledger import embedded
from tests.node_clients import ask_node
from tests.system.product import PATIENCE_S, ROOT, Product, free_ports

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(600)]

CONFIG = """
targets:
  - {{name: engine, kind: engine, url: "http://127.0.0.1:{engine}"}}
  - {{name: second, kind: openai, base_url: "http://127.0.0.1:{second}/v1", model: smollm2-135m-instruct,
     prices: {{input_usd_per_mtok: 1, output_usd_per_mtok: 2}}}}
models: {{gpt-4o: auto}}
"""
POLICY = """\
version: 1
shapes:
  general: {candidates: [engine]}
  short_chat: {candidates: [second], fallback: [engine]}
  support: {objective: cost_per_completed_task}
defaults: {explore: 0}
"""
ASK: list[Any] = [{"role": "user", "content": "Write a short story about a lighthouse."}]


@pytest.fixture(scope="module")
def second_engine() -> Iterator[subprocess.Popen[bytes]]:
    """A second engine process with room for two sequences; `port` in its environment."""
    (port,) = free_ports(1)
    shared = os.environ.get("SPARKGATE_TEST_DIR", str(ROOT / ".sparkgate-test"))
    command = [sys.executable, "-m", "engine", "serve", "--data-dir", shared, "--port", str(port)]
    process = subprocess.Popen([*command, "--max-batch", "2"], cwd=ROOT, stderr=subprocess.DEVNULL)
    process.port = port  # type: ignore[attr-defined]
    yield process
    if process.poll() is None:
        process.terminate()
        process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def product(second_engine: subprocess.Popen[bytes]) -> Iterator[Product]:
    running = Product("--no-dashboard", with_model=True)
    config, policy = running.data_dir / "sparkgate.yaml", running.data_dir / "policy.yaml"
    second: int = second_engine.port  # type: ignore[attr-defined]
    config.write_text(CONFIG.format(engine=running.engine_port, second=second))
    policy.write_text(POLICY)
    running.options += ["--config", str(config), "--policy", str(policy)]
    running.start()
    until(lambda: answers(f"http://127.0.0.1:{second}/health"))
    yield running
    running.remove()


def until(is_so: Callable[[], Any]) -> Any:
    """What `is_so` gives, as soon as that is true."""
    end = time.monotonic() + PATIENCE_S
    while not (found := is_so()):
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.1)
    return found


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def counts(usage: dict[str, Any]) -> tuple[int, int, int]:
    """Tokens in, out and in all; how many of them were cached depends on what was asked before."""
    return usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]


class Weather(BaseModel):
    city: Literal["Paris", "Rome"]
    degrees: Literal[21, 30]


_clients = ExitStack()


@pytest.fixture(autouse=True)
def close_clients() -> Iterator[None]:
    """Left to the garbage collector, a client's sockets may go before the client that would close them."""
    with _clients:
        yield


def client(product: Product) -> OpenAI:
    return _clients.enter_context(OpenAI(base_url=f"{product.url}/v1", api_key=product.key, max_retries=0))


def anthropic_client(product: Product) -> Anthropic:
    return _clients.enter_context(Anthropic(base_url=product.url, api_key=product.key, max_retries=0))


def engine_is_idle(product: Product) -> bool:
    state = httpx.get(f"http://127.0.0.1:{product.engine_port}/state", trust_env=False).json()
    return (state["running"], state["waiting"]) == (0, 0)


def rows(product: Product, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    url = embedded.running_url(product.data_dir)
    assert url is not None
    where = make_url(url)
    given = {name: str(value) for name, value in where.query.items()}
    with psycopg.connect(dbname=where.database, user=where.username, **given) as connection:  # type: ignore[arg-type]
        return connection.execute(statement.encode(), values).fetchall()


@pytest.mark.parametrize("model", ["auto", "auto/code_generation", "gpt-4o", "engine", "second"])
def test_the_python_client_gets_real_text_and_right_usage(product: Product, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "messages": ASK, "max_tokens": 12, "temperature": 0}
    whole = client(product).chat.completions.create(**asked)
    text = whole.choices[0].message.content
    assert text
    assert whole.usage is not None
    assert (whole.usage.completion_tokens, whole.choices[0].finish_reason) == (12, "length")
    stream = client(product).chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert chunks[-1].usage is not None
    assert counts(chunks[-1].usage.to_dict()) == counts(whole.usage.to_dict())
    plain = list(client(product).chat.completions.create(**asked, stream=True))
    assert all(chunk.choices for chunk in plain)  # nobody asked for usage, nobody gets the extra chunk


@pytest.mark.parametrize("stream", [False, True])
def test_the_engine_says_the_same_in_every_api(product: Product, stream: bool) -> None:
    asked: dict[str, Any] = {"model": "engine", "temperature": 0}
    chat = client(product).chat.completions.create(messages=ASK, max_tokens=12, **asked)
    expected = chat.choices[0].message.content, 12
    messages = anthropic_client(product).messages
    wanted: dict[str, Any] = {"model": "engine", "messages": ASK, "max_tokens": 12}
    wanted["extra_body"] = {"temperature": 0}  # which the client does not offer any more
    if stream:
        events = client(product).responses.create(input=ASK, max_output_tokens=12, stream=True, **asked)
        *_, last = events
        response: Any = last.response
        with messages.stream(**wanted) as texts:
            message: Any = texts.get_final_message()
    else:
        response = client(product).responses.create(input=ASK, max_output_tokens=12, **asked)
        message = messages.create(**wanted)
    assert (response.output_text, response.usage.output_tokens) == expected
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert ("".join(block.text for block in message.content), message.usage.output_tokens) == expected
    assert message.stop_reason == "max_tokens"
    read = message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
    assert response.usage.input_tokens == read == counts(chat.to_dict()["usage"])[0]


@pytest.mark.parametrize("stream", [False, True])
def test_tools_of_the_engine_there_and_back(product: Product, stream: bool) -> None:
    """The call, then the answer to what the tool gave."""
    chat: Any = client(product).chat.completions
    tools: Any = [openai.pydantic_function_tool(Weather)]
    asked: dict[str, Any] = {"model": "engine", "tools": tools, "temperature": 0}
    force = {**asked, "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 60}
    if stream:
        with chat.stream(messages=ASK, **force) as events:
            called = events.get_final_completion().choices[0]
    else:
        called = chat.parse(messages=ASK, **force).choices[0]
    (call,) = called.message.tool_calls
    assert called.finish_reason == "tool_calls"
    assert isinstance(call.function.parsed_arguments, Weather)
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    history = [*ASK, called.message, result]
    ended = chat.create(messages=history, tool_choice="none", max_tokens=8, stream=stream, **asked)
    if stream:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in ended)
    else:
        assert ended.choices[0].message.content

    messages: Any = anthropic_client(product).messages
    tool = {"name": "Weather", "input_schema": Weather.model_json_schema()}
    asked = {"model": "engine", "tools": [tool], "extra_body": {"temperature": 0}}

    def ask_anthropic(**given: Any) -> Any:
        if not stream:
            return messages.create(**asked, **given)
        with messages.stream(**asked, **given) as events:
            return events.get_final_message()

    choice = {"type": "any", "disable_parallel_tool_use": True}
    called = ask_anthropic(messages=ASK, tool_choice=choice, max_tokens=60)
    (use,) = called.content
    assert (called.stop_reason, Weather(**use.input)) == ("tool_use", call.function.parsed_arguments)
    outcome = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
    history = [*ASK, {"role": "assistant", "content": called.content}, {"role": "user", "content": [outcome]}]
    ended = ask_anthropic(messages=history, tool_choice={"type": "none"}, max_tokens=8)
    assert ended.content[0].text


def test_structured_outputs_of_the_engine(product: Product) -> None:
    asked: dict[str, Any] = {"model": "engine", "temperature": 0}
    chat, responses = client(product).chat.completions, client(product).responses
    whole = chat.parse(messages=ASK, response_format=Weather, max_tokens=60, **asked)
    with chat.stream(messages=ASK, response_format=Weather, max_tokens=60, **asked) as chunks:
        streamed = chunks.get_final_completion()
    response = responses.parse(input=ASK, text_format=Weather, max_output_tokens=60, **asked)
    message = anthropic_client(product).messages.parse(
        model="engine", messages=ASK, output_format=Weather, max_tokens=60, extra_body={"temperature": 0}
    )
    first = whole.choices[0].message.parsed
    assert isinstance(first, Weather)
    assert streamed.choices[0].message.parsed == response.output_parsed == message.parsed_output == first


def test_what_the_engine_refuses_is_the_clients_own_error(product: Product) -> None:
    with pytest.raises(openai.BadRequestError) as too_long:
        client(product).chat.completions.create(model="engine", messages=ASK, max_tokens=9000)
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError):
        client(product).responses.create(model="engine", input="hi", max_output_tokens=9000, stream=True)
    with pytest.raises(anthropic.BadRequestError) as refused:
        anthropic_client(product).messages.create(model="engine", messages=ASK, max_tokens=9000)
    assert refused.value.type == "invalid_request_error"
    with pytest.raises(openai.InternalServerError, match="does not serve /v1/embeddings"):
        client(product).embeddings.create(model="engine", input="hi")


def test_what_a_client_gives_up_ends_in_the_engine(product: Product) -> None:
    """Whole answers would take minutes."""
    endless: dict[str, Any] = {"model": "engine", "messages": ASK, "max_tokens": 7000}
    hasty = client(product).with_options(timeout=0.5)
    with pytest.raises(openai.APITimeoutError):
        hasty.chat.completions.create(**endless, extra_body={"ignore_eos": True})
    until(lambda: engine_is_idle(product))
    with client(product).chat.completions.create(
        **endless, stream=True, extra_body={"ignore_eos": True}
    ) as chunks:
        next(iter(chunks))
    until(lambda: engine_is_idle(product))


def test_the_node_clients_get_the_same(product: Product) -> None:
    everything = ["chat", "responses", "messages", "tools"]
    wanted = {"auto": ["chat"], "engine": everything}
    said = ask_node(product.url, product.key, wanted)
    for model in said.values():
        assert model["chat"]["whole"]
        assert model["chat"]["whole"] == model["chat"]["text"]
        assert model["chat"]["usage"]["completion_tokens"] == 12
        assert counts(model["chat"]["usage"]) == counts(model["chat"]["streamUsage"])
    engine = said["engine"]
    assert engine["responses"]["whole"] == engine["responses"]["text"] != ""
    assert engine["responses"]["end"] == "response.incomplete"
    assert (engine["messages"]["end"], engine["messages"]["usage"]["output_tokens"]) == ("max_tokens", 12)
    assert engine["messages"]["counted"]["input_tokens"] > 0
    for calls in engine["tools"].values():
        assert calls["calls"][0] == calls["calls"][1]
        ((name, arguments),) = calls["calls"][0]
        assert (name, arguments["city"] in ("Paris", "Rome")) == ("weather", True)
        assert calls["answers"][0] == calls["answers"][1] != ""


def test_a_call_is_a_row_with_everything_about_it(product: Product) -> None:
    with client(product).chat.completions.with_streaming_response.create(
        model="auto",
        messages=ASK,
        max_tokens=16,
        stream=True,
        extra_headers={"X-Task-Id": "t-1", "X-Workflow": "stories", "X-Task-Shape": "support"},
    ) as response:
        list(response.iter_lines())
        request_id = response.headers["x-request-id"]
        assert response.headers["x-sparkgate-shape"] == "support"
    statement = (
        "SELECT shape, shape_source, target, policy_hash, ttft_s, total_s, input_tokens, output_tokens, cost_usd,"
        " task_id, workflow, decision FROM exchanges WHERE id = %s"
    )
    (row,) = until(lambda: rows(product, statement, request_id.removeprefix("req_")))
    (
        shape,
        source,
        target,
        policy_hash,
        ttft_s,
        total_s,
        read,
        written,
        cost_usd,
        task_id,
        workflow,
        decision,
    ) = row
    assert (shape, source, task_id, workflow) == ("support", "declared", "t-1", "stories")
    assert 0 < ttft_s < total_s
    assert (read > 10, written) == (True, 16)
    assert cost_usd > 0
    assert decision["policy_hash"] == policy_hash
    assert target in [candidate["target"] for candidate in decision["candidates"]]
    shown = product.get(f"/v1/exchanges/{request_id}").json()
    assert (shown["decision"], shown["attempts"][0]["result"]) == (decision, "ok")
    (count,) = rows(product, "SELECT sum(n1) FROM latency_histograms, unnest(n) n1 WHERE metric = 'ttft_s'")
    assert count[0] >= 1


def test_an_outcome_belongs_to_its_task(product: Product) -> None:
    headers = {"Authorization": f"Bearer {product.key}"}
    with httpx.Client(base_url=product.url, headers=headers, timeout=PATIENCE_S, trust_env=False) as http:
        body = {"model": "engine", "messages": ASK, "max_tokens": 4}
        for _ in range(2):
            http.post("/v1/chat/completions", json=body, headers={"X-Task-Id": "t-2"}).raise_for_status()
        url = "/v1/tasks/t-2/outcome"
        assert http.post(url, json={"status": "done"}).status_code == 400
        assert http.post(url, json={"status": "completed", "score": 0.5}).json()["status"] == "completed"
        is_whole = {"exchanges": 2, "score": 0.5}.items()  # two workers' records arrive on their own
        task = until(lambda: (found := http.get("/v1/tasks/t-2").json()).items() >= is_whole and found)
        assert task["status"] == "completed"


def test_the_policy_decides_where_a_call_goes(product: Product) -> None:
    for shape, target in (("general", "engine"), ("short_chat", "second")):
        answer = client(product).chat.completions.with_raw_response.create(
            model=f"auto/{shape}",
            messages=ASK,
            max_tokens=2,
        )
        assert answer.headers["x-sparkgate-target"] == target


def test_metrics_of_all_workers_are_one_exposition(product: Product) -> None:
    list(client(product).chat.completions.create(model="engine", messages=ASK, max_tokens=2, stream=True))
    families = {
        family.name: family for family in text_string_to_metric_families(product.get("/metrics").text)
    }
    calls = families["sparkgate_exchanges"].samples
    assert sum(sample.value for sample in calls if sample.labels["target"] == "engine") >= 1
    assert {"sparkgate_ttft_seconds", "gen_ai_server_time_to_first_token_seconds"} <= families.keys()
    up = {sample.labels["target"]: sample.value for sample in families["sparkgate_engine_up"].samples}
    assert up == {"engine": 1}


def test_the_drains_figures_stand_beside_the_workers(product: Product) -> None:
    def written() -> float:
        families = text_string_to_metric_families(product.get("/metrics").text)
        figures = {sample.name: sample.value for family in families for sample in family.samples}
        assert figures["sparkgate_drain_database_up"] == 1
        return figures["sparkgate_drain_exchanges_total"]

    before = written()
    client(product).chat.completions.create(model="auto/general", messages=ASK, max_tokens=2)
    assert until(lambda: written() > before)


def test_a_policy_edit_is_taken_over_and_a_broken_one_is_not(product: Product) -> None:
    policy = product.data_dir / "policy.yaml"
    before = product.get("/health").json()["policy"]["hash"]
    policy.write_text(POLICY.replace("general: {candidates: [engine]}", "general: {candidates: [second]}"))
    until(lambda: product.get("/health").json()["policy"]["hash"] != before)
    good = product.get("/health").json()["policy"]["hash"]
    policy.write_text("version: 1\nshapes: {chat: {}, general: {candidates: [nobody], objectiv: ttft}}\n")
    error = until(lambda: product.get("/health").json()["policy"]["error"])
    assert error.count("policy.yaml:2:") == 3
    assert product.get("/health").json()["policy"]["hash"] == good
    answer = client(product).chat.completions.with_raw_response.create(
        model="auto/general",
        messages=ASK,
        max_tokens=2,
    )
    assert answer.headers["x-sparkgate-target"] == "second"
    assert rows(product, "SELECT count(*) FROM policies WHERE error IS NOT NULL") == [(1,)]
    policy.write_text(POLICY)
    until(lambda: product.get("/health").json()["policy"] == {"hash": before, "error": None})


def test_killing_an_upstream_hurts_only_streams_that_had_begun(
    product: Product, second_engine: subprocess.Popen[bytes]
) -> None:
    """Two streams have begun at the second engine, four calls wait in its queue; then it is killed."""
    begun, errors, targets = asyncio.run(_kill_in_mid_stream(product, second_engine))
    assert begun == 2
    assert len(errors) == 2
    assert all("stopped in mid-answer" in error for error in errors)
    assert targets == ["engine"] * 4
    later = client(product).chat.completions.with_raw_response.create(
        model="auto/short_chat",
        messages=ASK,
        max_tokens=2,
    )
    assert later.headers["x-sparkgate-target"] == "engine"
    cut = "SELECT count(*) FROM exchanges WHERE error_code = 'cut_off' AND target = 'second' AND status = 200"
    until(lambda: rows(product, cut) == [(2,)])


async def _kill_in_mid_stream(
    product: Product, engine: subprocess.Popen[bytes]
) -> tuple[int, list[str], list[str]]:
    """(streams begun, what their error events said, targets of the calls that had not begun)."""
    errors: list[str] = []
    targets: list[str] = []
    started = asyncio.Event()
    begun = 0

    async def long_stream() -> None:
        nonlocal begun
        stream = await caller.chat.completions.create(
            model="auto/short_chat",
            messages=ASK,
            max_tokens=2000,
            stream=True,
        )
        try:
            first = True
            async for _ in stream:
                if first:
                    begun, first = begun + 1, False
                    if begun == 2:
                        started.set()
        except Exception as error:
            errors.append(str(error))

    async def waiting_call() -> None:
        answer = await caller.chat.completions.with_raw_response.create(
            model="auto/short_chat",
            messages=ASK,
            max_tokens=2,
        )
        targets.append(answer.headers["x-sparkgate-target"])

    async with AsyncOpenAI(base_url=f"{product.url}/v1", api_key=product.key, max_retries=0) as caller:
        streams = [asyncio.create_task(long_stream()) for _ in range(2)]
        await asyncio.wait_for(started.wait(), PATIENCE_S)
        waiting = [asyncio.create_task(waiting_call()) for _ in range(4)]
        await asyncio.sleep(1.0)
        assert not any(task.done() for task in waiting)
        engine.send_signal(signal.SIGKILL)
        await asyncio.gather(*streams, *waiting)
    return begun, errors, targets
