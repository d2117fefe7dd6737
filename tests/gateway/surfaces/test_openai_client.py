"""OpenAI's own Python client against the gateway, whose targets speak its APIs, chat alone, or Anthropic's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.fakes import error, stream
from tests.gateway.conftest import KEY, Gateway, Run, eventually
from tests.gateway.surfaces.native_upstream import ANSWER, ARGUMENTS, break_off, collect, speak
from tests.gateway.surfaces.rich_bodies import SCHEMA
from tests.openapi import DOCUMENT, errors_of, needs_document

Prepare = Callable[..., Run]
OPENAI_APIS = ["/v1/chat/completions", "/v1/responses", "/v1/embeddings"]
SPEAKING: dict[str, dict[str, Any]] = {
    "its own APIs": {"endpoints": OPENAI_APIS},
    "chat alone": {},
    "Messages": {"kind": "anthropic"},
}
ONE_TRY = "version: 1\ndefaults: {retries: {max: 0}}\n"
ASK: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA, "strict": True}}


class Weather(BaseModel):
    city: str
    degrees: int


@pytest.fixture(params=SPEAKING)
def talk(request: pytest.FixtureRequest, with_gateway: Prepare) -> Callable[..., None]:
    """Runs a test with a client, once for each kind of target."""

    def run(test: Callable[[AsyncOpenAI, Gateway], Any]) -> None:
        async def whole(gateway: Gateway) -> None:
            gateway.fakes["a"].script = [speak] * 20
            async with client_of(gateway) as client:
                await test(client, gateway)

        with_gateway(ONE_TRY, limits={"a": SPEAKING[request.param]})(whole)

    return run


@asynccontextmanager
async def client_of(gateway: Gateway, **options: Any) -> AsyncIterator[AsyncOpenAI]:
    http = openai.DefaultAsyncHttpxClient(trust_env=False)
    given: dict[str, Any] = {"base_url": f"{gateway.url}/v1", "api_key": KEY, "max_retries": 0, **options}
    async with AsyncOpenAI(**given, http_client=http) as client:
        yield client


def check(schema: str, *values: BaseModel) -> None:
    """As OpenAI publishes them, where its document is at hand."""
    for value in values if DOCUMENT is not None and DOCUMENT.is_file() else ():
        assert errors_of(schema, json.loads(value.model_dump_json(exclude_unset=True))) == []


def test_chat(talk: Callable[..., None]) -> None:
    async def test(client: AsyncOpenAI, gateway: Gateway) -> None:
        create: Any = client.chat.completions.create
        whole = await create(model="auto", messages=ASK, max_tokens=50)
        check("CreateChatCompletionResponse", whole)
        assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("Hello", "stop")
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (7, 2)

        options = {"include_usage": True}
        chunks = [
            c async for c in await create(model="auto", messages=ASK, stream=True, stream_options=options)
        ]
        check("CreateChatCompletionStreamResponse", *chunks)
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello"
        assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 9)

        called = await create(model="auto", messages=ASK, tools=[TOOL])
        check("CreateChatCompletionResponse", called)
        (call,) = called.choices[0].message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == ("weather", json.loads(ARGUMENTS))
        result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
        history = [*ASK, called.choices[0].message, result]
        ended = await create(model="auto", messages=history, tools=[TOOL])
        assert ended.choices[0].message.content == "Hello"

        parsed = await client.chat.completions.parse(model="auto", messages=ASK, response_format=Weather)
        assert parsed.choices[0].message.parsed == Weather(**ANSWER)

    talk(test)


def test_a_chat_stream_builds_the_tool_call(talk: Callable[..., None]) -> None:
    async def test(client: AsyncOpenAI, gateway: Gateway) -> None:
        async with client.chat.completions.stream(model="auto", messages=ASK, tools=[TOOL]) as streamed:
            final = await streamed.get_final_completion()
        calls: Any = final.choices[0].message.tool_calls
        (call,) = calls
        assert json.loads(call.function.arguments) == json.loads(ARGUMENTS)
        assert final.choices[0].finish_reason == "tool_calls"

    talk(test)


def test_responses(talk: Callable[..., None]) -> None:
    async def test(client: AsyncOpenAI, gateway: Gateway) -> None:
        tool: Any = {"type": "function", **TOOL["function"]}
        whole = await client.responses.create(model="auto", input="hi", max_output_tokens=50)
        check("Response", whole)
        assert (whole.output_text, whole.status) == ("Hello", "completed")
        assert whole.usage is not None
        assert whole.usage.total_tokens == 9

        events = [e async for e in await client.responses.create(model="auto", input="hi", stream=True)]
        check("ResponseStreamEvent", *events)
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "Hello"
        assert events[-1].type == "response.completed"

        async with client.responses.stream(model="auto", input="hi", tools=[tool]) as streamed:
            called = await streamed.get_final_response()
        check("Response", called)
        (call,) = [item for item in called.output if item.type == "function_call"]
        assert json.loads(call.arguments) == json.loads(ARGUMENTS)
        output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
        history: Any = [*ASK, call.to_dict(exclude_unset=True), output]
        ended = await client.responses.create(model="auto", input=history, tools=[tool])
        assert ended.output_text == "Hello"

        parsed = await client.responses.parse(model="auto", input="hi", text_format=Weather)
        assert parsed.output_parsed == Weather(**ANSWER)

    talk(test)


def test_embeddings_completions_and_models(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [speak] * 3
        async with client_of(gateway) as client:
            for encoding in ({}, {"encoding_format": "float"}):  # by default the client asks for base64
                made = await client.embeddings.create(model="auto", input=["one", "two"], **encoding)  # type: ignore[arg-type]
                assert [each.embedding for each in made.data] == [[0.5, -1.0], [0.5, -1.0]]
            check("CreateEmbeddingResponse", made)
            completed = await client.completions.create(model="auto", prompt="Once")
            check("CreateCompletionResponse", completed)
            assert completed.choices[0].text == "Hello"
            listed = await client.models.list()
            assert {"auto", "a"} <= {model.id for model in listed.data}
            check("Model", await client.models.retrieve("a"), *listed.data)
            with pytest.raises(openai.NotFoundError):
                await client.models.retrieve("nobody")

    with_gateway(ONE_TRY, limits={"a": {"endpoints": [*OPENAI_APIS, "/v1/completions"]}})(test)


def test_errors_are_the_clients_own(talk: Callable[..., None]) -> None:
    async def test(client: AsyncOpenAI, gateway: Gateway) -> None:
        create: Any = client.chat.completions.create
        with pytest.raises(openai.BadRequestError) as refused:
            await create(model="auto", messages=[])
        assert refused.value.param == "messages"
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="sg-wrong").responses.create(model="auto", input="hi")

        fake = gateway.fakes["a"]
        for status, kind in (
            (400, openai.BadRequestError),
            (422, openai.UnprocessableEntityError),
            (429, openai.RateLimitError),
            (500, openai.InternalServerError),
        ):
            fake.script = [error(status, "some_code", "no luck")] * 2
            with pytest.raises(kind, match="no luck"):
                await create(model="auto", messages=ASK)
            with pytest.raises(kind, match="no luck") as said:
                await client.responses.create(model="auto", input="hi", stream=True)
            assert said.value.code == "some_code"
        fake.script = [stream(cut=True)] * 2
        with pytest.raises(openai.InternalServerError, match="cut_off"):
            await create(model="auto", messages=ASK, stream=True)

    talk(test)


def test_a_stream_that_breaks_off_ends_in_an_error(talk: Callable[..., None]) -> None:
    async def test(client: AsyncOpenAI, gateway: Gateway) -> None:
        gateway.fakes["a"].script = [break_off] * 2
        chunks = await client.chat.completions.create(model="auto", messages=ASK, stream=True)
        got: list[Any] = []
        with pytest.raises(openai.APIError, match="stopped in mid-answer"):
            await collect(chunks, got)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in got).startswith("Hel")
        events = [e async for e in await client.responses.create(model="auto", input="hi", stream=True)]
        check("ResponseStreamEvent", *events)
        last: Any = events[-1]
        failure = last.response.error if last.type == "response.failed" else last
        assert "stopped in mid-answer" in failure.message

    talk(test)


@needs_document
def test_our_own_errors_are_as_published(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        refusals = [
            await gateway.post({"model": "auto", "messages": []}),
            await gateway.post({"model": "nobody", "messages": ASK}),
            await gateway.post({"model": "auto", "input": 3}, "/v1/responses"),
            await gateway.post({"model": "auto", "input": "hi"}, "/v1/embeddings"),
            await gateway.post({"model": "auto", "messages": ASK}, authorization="Bearer sg-wrong"),
            await gateway.post({}, "/v1/nothing"),
        ]
        assert [status for status, _, _ in refusals] == [400, 404, 400, 503, 401, 404]
        assert [errors_of("ErrorResponse", json.loads(raw)) for _, _, raw in refusals] == [[]] * 6

    with_gateway(unknown_model="reject")(test)


def test_the_client_tries_again_when_it_is_told_to_wait(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        fake = gateway.fakes["a"]
        fake.script = [error(429, "rate_limit_exceeded", retry_after="1"), speak]
        async with client_of(gateway, max_retries=1) as client:
            answer = await client.chat.completions.create(model="auto", messages=ASK)
        assert answer.choices[0].message.content == "Hello"
        assert [each["exchange"]["status"] for each in gateway.exchanges()] == [429, 200]

    with_gateway(ONE_TRY)(test)


def test_time_limits_of_either_side(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        fake = gateway.fakes["a"]
        fake.script = [stream(60.0)] * 2
        async with client_of(gateway) as client:
            with pytest.raises(openai.InternalServerError) as late:
                await client.chat.completions.create(model="auto/general", messages=ASK, stream=True)
            assert (late.value.status_code, late.value.code) == (504, "timeout_first_token")
            with pytest.raises(openai.APITimeoutError):
                await client.with_options(timeout=0.2).chat.completions.create(
                    model="auto/general", messages=ASK
                )
        await eventually(lambda: fake.closed_early == 2)

    with_gateway(ONE_TRY + "shapes: {general: {timeouts: {first_token_s: 0.5}}}\n")(test)
