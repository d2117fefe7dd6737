"""Unmodified agents, in OpenAI's and Anthropic's own clients: what they do for one end is one task, with its cost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient
from openai import AsyncOpenAI
from sqlalchemy import Engine, text

from gateway.ledger.database import create_engine
from gateway.ledger.drain import Drain
from tests.fakes import error
from tests.gateway.conftest import KEY, Gateway, Run, eventually
from tests.gateway.surfaces.native_upstream import speak
from tests.gateway.surfaces.rich_bodies import SCHEMA
from tests.gateway.surfaces.test_openai_client import OPENAI_APIS, client_of

Agent = Callable[[AsyncOpenAI, str], Awaitable[None]]
APIS = [*OPENAI_APIS, "/v1/completions"]
POLICY = """
version: 1
defaults: {retries: {max: 0}}
shapes: {agent_loop: {completed_when: tool_loop_ends}}
"""
PRICES = {"input_usd_per_mtok": 0.3, "output_usd_per_mtok": 1.2}
NUSD_A_CALL = 7 * 300 + 2 * 1200  # of each answer that the upstream gives
FUNCTION: Any = {"name": "weather", "parameters": SCHEMA}
RESPONSES_TOOL: Any = {"type": "function", "strict": True, **FUNCTION}


@pytest.fixture
def ledger(clean_database_url: str) -> Iterator[Engine]:
    engine = create_engine(clean_database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def serve(with_gateway: Callable[..., Run], tmp_path: Path, ledger: Engine) -> Callable[..., None]:
    """Runs clients against a gateway, then the drain over what they left."""

    def run(
        test: Callable[[AsyncOpenAI, Gateway], Awaitable[None]], policy: str = POLICY, **options: Any
    ) -> None:
        async def whole(gateway: Gateway) -> None:
            gateway.fakes["a"].script += [speak] * 30
            async with client_of(gateway, **options) as client:
                await test(client, gateway)

        with_gateway(policy, limits={"a": {"endpoints": APIS, "prices": PRICES}})(whole)
        drain = Drain(ledger, tmp_path / "spool")
        while drain.step():
            pass
        assert drain.quarantined == 0

    return run


def tasks_of(engine: Engine) -> list[tuple[str, int, int, int]]:
    """(status, calls, nano-dollars, tasks that did so), of all tasks."""
    query = """
    SELECT status, calls, nusd, count(*) FROM (
        SELECT task_id, count(*) AS calls, sum(cost_usd * 1e9)::bigint AS nusd,
            (array_agg(coalesce(verdict, 'open') ORDER BY started_at DESC))[1] AS status
        FROM exchanges GROUP BY caller, task_id
    ) AS task GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    """
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


async def chat_agent(client: AsyncOpenAI, question: str) -> None:
    """Asks, calls the tool, tells its result, gets the answer."""
    messages: list[Any] = [{"role": "system", "content": "Help."}, {"role": "user", "content": question}]
    for _ in range(2):
        answer: Any = await client.chat.completions.create(
            model="auto", messages=messages, tools=[{"type": "function", "function": FUNCTION}]
        )
        message = answer.choices[0].message
        messages.append(message)
        for call in message.tool_calls or ():
            messages.append({"role": "tool", "tool_call_id": call.id, "content": "21 degrees"})
    assert message.content == "Hello"


async def streaming_chat_agent(client: AsyncOpenAI, question: str) -> None:
    messages: list[Any] = [{"role": "user", "content": question}]
    for _ in range(2):
        async with client.chat.completions.stream(
            model="auto",
            messages=messages,
            tools=[{"type": "function", "function": FUNCTION | {"strict": True}}],
        ) as events:
            message: Any = (await events.get_final_completion()).choices[0].message
        messages.append(message.model_dump(exclude_none=True, exclude={"parsed"}))
        for call in message.tool_calls or ():
            messages.append({"role": "tool", "tool_call_id": call.id, "content": "21 degrees"})
    assert message.content == "Hello"


async def responses_agent(client: AsyncOpenAI, question: str) -> None:
    """Brings along all items itself."""
    items: list[Any] = [{"role": "user", "content": question}]
    for _ in range(2):
        answer: Any = await client.responses.create(
            model="auto", input=items, store=False, tools=[RESPONSES_TOOL]
        )
        for item in answer.output:
            items.append(item)
            if item.type == "function_call":
                items.append(
                    {"type": "function_call_output", "call_id": item.call_id, "output": "21 degrees"}
                )
    assert answer.output_text == "Hello"


@pytest.mark.parametrize("agent", [chat_agent, streaming_chat_agent, responses_agent])
def test_an_agents_calls_are_one_task(serve: Callable[..., None], ledger: Engine, agent: Agent) -> None:
    async def test(client: AsyncOpenAI, gateway: Gateway) -> None:
        await asyncio.gather(
            *(agent(client, f"What is the weather in {city}?") for city in ("Paris", "Rome"))
        )
        await agent(client, "What is the weather in Paris?")

    serve(test)
    assert tasks_of(ledger) == [("completed", 2, 2 * NUSD_A_CALL, 3)]


def test_what_a_provider_keeps_is_gone_on_from_by_name(serve: Callable[..., None], ledger: Engine) -> None:
    async def test(client: AsyncOpenAI, gateway: Gateway) -> None:
        first = await client.responses.create(model="auto", input="hello")
        await client.responses.create(model="auto", input="and then?", previous_response_id=first.id)

    serve(test)
    assert tasks_of(ledger) == [("completed", 2, 2 * NUSD_A_CALL, 1)]


def test_an_agent_of_anthropics_is_one_task_though_its_cache_marks_move(
    serve: Callable[..., None], ledger: Engine
) -> None:
    async def test(_: AsyncOpenAI, gateway: Gateway) -> None:
        http = DefaultAsyncHttpxClient(trust_env=False)
        async with AsyncAnthropic(base_url=gateway.url, api_key=KEY, http_client=http) as client:
            said: list[Any] = ["What is the weather in Paris?"]
            for _turn in range(3):
                marked = {"type": "text", "text": said[-1], "cache_control": {"type": "ephemeral"}}
                turns: list[Any] = [
                    {"role": ("user", "assistant")[i % 2], "content": [{"type": "text", "text": text}]}
                    for i, text in enumerate(said)
                ]
                turns[-1]["content"] = [marked]
                answer: Any = await client.messages.create(model="auto", max_tokens=50, messages=turns)
                said += [answer.content[0].text, "And tomorrow?"]

    serve(test)
    assert tasks_of(ledger) == [("completed", 3, 3 * NUSD_A_CALL, 1)]


def test_a_clients_own_retry_stays_in_its_task(serve: Callable[..., None], ledger: Engine) -> None:
    async def test(client: AsyncOpenAI, gateway: Gateway) -> None:
        gateway.fakes["a"].script.insert(0, error(500))
        await client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "hi"}])

    serve(test, max_retries=1)
    assert tasks_of(ledger) == [("completed", 2, NUSD_A_CALL, 1)]


def test_embeddings_and_texts_are_tasks_of_their_own(serve: Callable[..., None], ledger: Engine) -> None:
    async def test(client: AsyncOpenAI, gateway: Gateway) -> None:
        for _ in range(2):
            await client.embeddings.create(model="auto", input="one text")
            await client.completions.create(model="auto", prompt="one text")

    serve(test)
    assert tasks_of(ledger) == [("completed", 1, 4 * 300, 2), ("completed", 1, NUSD_A_CALL, 2)]


FORM: Any = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}}
NO_SUCH_FIELD = {"type": "object", "required": ["humidity"]}
OTHER_FORM: Any = {"type": "json_schema", "json_schema": {"name": "other", "schema": NO_SUCH_FIELD}}


@pytest.mark.parametrize("is_stream", [False, True])
def test_answers_that_should_be_json_are_judged_by_their_schema(
    serve: Callable[..., None], ledger: Engine, is_stream: bool
) -> None:
    async def test(client: AsyncOpenAI, gateway: Gateway) -> None:
        for form in (FORM, OTHER_FORM, None):
            given: dict[str, Any] = {"response_format": form} if form else {}
            answer: Any = await client.chat.completions.create(
                model="auto", messages=[{"role": "user", "content": str(form)}], stream=is_stream, **given
            )
            if is_stream:
                [_ async for _ in answer]
        await eventually(lambda: len(gateway.exchanges()) == 3)
        assert [record["exchange"]["verdict"] for record in gateway.exchanges()] == [
            "completed",
            "failed",
            "failed",
        ]

    serve(test, "version: 1\ndefaults: {completed_when: json_valid}\n")


def test_an_outcome_may_be_reported_by_a_calls_request_id(serve: Callable[..., None], ledger: Engine) -> None:
    async def test(client: AsyncOpenAI, gateway: Gateway) -> None:
        raw = await client.chat.completions.with_raw_response.create(
            model="auto", messages=[{"role": "user", "content": "hi"}]
        )
        path = f"/v1/tasks/{raw.headers['x-request-id']}/outcome"
        assert (await gateway.post({"status": "failed", "score": 0.2}, path))[0] == 200

    serve(test)
    with ledger.connect() as connection:
        (task,) = connection.execute(text("SELECT status, score, calls FROM tasks"))
        (view,) = connection.execute(text("SELECT tasks, failed, completed FROM cost_per_completed_task"))
    assert (tuple(task), tuple(view)) == (("failed", 0.2, 1), (1, 1, 0))
