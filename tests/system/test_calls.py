"""Real calls through the real product: official clients, the ledger's row, failover, policy edits while running.

Two targets: the bundled engine, and a second engine process as a plain OpenAI-compatible upstream.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from anthropic import Anthropic
from openai import AsyncOpenAI, OpenAI
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import make_url

from gateway.ledger import embedded
from tests.system.product import PATIENCE_S, ROOT, Product, free_ports

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

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
NODE_PACKAGES = {"openai": "7.57.0", "@anthropic-ai/sdk": "1.12.0"}


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


def client(product: Product) -> OpenAI:
    return OpenAI(base_url=f"{product.url}/v1", api_key=product.key, max_retries=0)


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
    anthropic = Anthropic(base_url=product.url, api_key=product.key, max_retries=0)
    wanted: dict[str, Any] = {"model": "engine", "messages": ASK, "max_tokens": 12}
    wanted["extra_body"] = {"temperature": 0}  # which the client does not offer any more
    if stream:
        events = client(product).responses.create(input=ASK, max_output_tokens=12, stream=True, **asked)
        *_, last = events
        response: Any = last.response
        with anthropic.messages.stream(**wanted) as texts:
            message: Any = texts.get_final_message()
    else:
        response = client(product).responses.create(input=ASK, max_output_tokens=12, **asked)
        message = anthropic.messages.create(**wanted)
    assert (response.output_text, response.usage.output_tokens) == expected
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert ("".join(block.text for block in message.content), message.usage.output_tokens) == expected
    assert message.stop_reason == "max_tokens"
    read = message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
    assert response.usage.input_tokens == read == counts(chat.to_dict()["usage"])[0]


def test_the_node_clients_get_the_same(product: Product) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("the official Node clients need node and npm, which are not installed")
    folder = Path(os.environ.get("SPARKGATE_TEST_DIR", ROOT / ".sparkgate-test")) / "node"
    folder.mkdir(parents=True, exist_ok=True)
    if not all((folder / "node_modules" / name).is_dir() for name in NODE_PACKAGES):
        packages = [f"{name}@{version}" for name, version in NODE_PACKAGES.items()]
        install = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), *packages]
        subprocess.run(install, check=True, timeout=PATIENCE_S, capture_output=True)
    script = shutil.copy(Path(__file__).with_name("client.mjs"), folder)
    env = {**os.environ, "BASE_URL": product.url, "KEY": product.key}
    done = subprocess.run(
        [node, script], env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for call in said["chat"]:
        assert call["whole"]
        assert call["whole"] == call["text"]
        assert call["usage"]["completion_tokens"] == 12
        assert counts(call["usage"]) == counts(call["streamUsage"])
    whole, streamed, end = said["responses"]
    assert whole == streamed != ""
    assert end == "response.incomplete"
    assert said["messages"] == ["max_tokens", "max_tokens", 12]
    assert said["counted"] > 0
    assert said["models"][0] == said["models"][1] > 0
    assert said["errors"] == [
        {"status": 400, "kind": "BadRequestError"},
        {"status": 400, "kind": "BadRequestError"},
    ]


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
        task = until(lambda: (found := http.get("/v1/tasks/t-2").json()).get("status") and found)
        assert (task["exchanges"], task["status"], task["score"]) == (2, "completed", 0.5)


def test_the_policy_decides_where_a_call_goes(product: Product) -> None:
    for shape, target in (("general", "engine"), ("short_chat", "second")):
        answer = client(product).chat.completions.with_raw_response.create(
            model=f"auto/{shape}",
            messages=ASK,
            max_tokens=2,
        )
        assert answer.headers["x-sparkgate-target"] == target


def test_metrics_of_all_workers_are_one_exposition(product: Product) -> None:
    families = {
        family.name: family for family in text_string_to_metric_families(product.get("/metrics").text)
    }
    calls = families["sparkgate_exchanges"].samples
    assert sum(sample.value for sample in calls if sample.labels["target"] == "engine") >= 1
    assert "sparkgate_ttft_seconds" in families


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
