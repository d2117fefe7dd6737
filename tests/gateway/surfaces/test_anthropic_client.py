"""Anthropic's own Python client against the gateway, whose targets speak Messages, or chat completions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import pytest
from aiohttp import web
from anthropic import AsyncAnthropic

from tests.fakes import body, error
from tests.gateway.conftest import KEY, Gateway, Run
from tests.gateway.surfaces.native_upstream import ARGUMENTS, break_off, collect, refusing, speak
from tests.gateway.surfaces.rich_bodies import SCHEMA

Prepare = Callable[..., Run]
SPEAKING: dict[str, dict[str, Any]] = {"Messages": {"kind": "anthropic"}, "chat": {}}
ONE_TRY = "version: 1\ndefaults: {retries: {max: 0}}\n"
ASK: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOL: Any = {"name": "weather", "input_schema": SCHEMA}


@pytest.fixture(params=SPEAKING)
def talk(request: pytest.FixtureRequest, with_gateway: Prepare) -> Callable[..., None]:
    """Runs a test with a client, once for each kind of target."""

    def run(test: Callable[[AsyncAnthropic, Gateway], Any]) -> None:
        async def whole(gateway: Gateway) -> None:
            gateway.fakes["a"].script = [speak] * 20
            async with client_of(gateway) as client:
                await test(client, gateway)

        with_gateway(ONE_TRY, limits={"a": SPEAKING[request.param]})(whole)

    return run


@asynccontextmanager
async def client_of(gateway: Gateway, **options: Any) -> AsyncIterator[AsyncAnthropic]:
    http = anthropic.DefaultAsyncHttpxClient(trust_env=False)
    given: dict[str, Any] = {"base_url": gateway.url, "api_key": KEY, "max_retries": 0, **options}
    async with AsyncAnthropic(**given, http_client=http) as client:
        yield client


def test_messages(talk: Callable[..., None]) -> None:
    async def test(client: AsyncAnthropic, gateway: Gateway) -> None:
        create: Any = client.messages.create
        whole = await create(model="auto", max_tokens=50, messages=ASK)
        assert [block.text for block in whole.content] == ["Hello"]
        assert (whole.stop_reason, whole.usage.input_tokens, whole.usage.output_tokens) == ("end_turn", 7, 2)

        async with client.messages.stream(model="auto", max_tokens=50, messages=ASK) as streamed:
            assert "".join([text async for text in streamed.text_stream]) == "Hello"
            final = await streamed.get_final_message()
        assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", 2)

        offer: Any = {"model": "auto", "max_tokens": 50, "messages": ASK, "tools": [TOOL]}
        async with client.messages.stream(**offer) as streamed:
            streamed_call: Any = await streamed.get_final_message()
        for called in (streamed_call, await create(**offer)):
            (use,) = called.content
            assert (called.stop_reason, use.name, use.input) == ("tool_use", "weather", json.loads(ARGUMENTS))
        result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
        history = [
            *ASK,
            {"role": "assistant", "content": called.content},
            {"role": "user", "content": [result]},
        ]
        ended = await create(model="auto", max_tokens=50, messages=history, tools=[TOOL])
        assert ended.content[0].text == "Hello"

    talk(test)


def test_errors_are_the_clients_own(talk: Callable[..., None]) -> None:
    async def test(client: AsyncAnthropic, gateway: Gateway) -> None:
        create: Any = client.messages.create
        with pytest.raises(anthropic.BadRequestError, match="messages"):
            await create(model="auto", max_tokens=5, messages="hi")
        with pytest.raises(anthropic.AuthenticationError) as unknown:
            await client.with_options(api_key="sg-wrong").messages.create(
                model="auto", max_tokens=5, messages=ASK
            )
        assert unknown.value.type == "authentication_error"
        for status, kind, type_ in (
            (400, anthropic.BadRequestError, "invalid_request_error"),
            (429, anthropic.RateLimitError, "rate_limit_error"),
            (529, anthropic.InternalServerError, "overloaded_error"),
        ):
            gateway.fakes["a"].script = [refusing(status, type_)]
            with pytest.raises(kind, match="no luck") as said:
                await create(model="auto", max_tokens=5, messages=ASK)
            assert said.value.type == type_
            assert said.value.request_id == said.value.response.headers["x-request-id"]

    talk(test)


def test_a_stream_that_breaks_off_ends_in_an_error(talk: Callable[..., None]) -> None:
    async def test(client: AsyncAnthropic, gateway: Gateway) -> None:
        gateway.fakes["a"].script = [break_off]
        got: list[str] = []
        async with client.messages.stream(model="auto", max_tokens=50, messages=ASK) as streamed:
            with pytest.raises(anthropic.APIStatusError, match="stopped in mid-answer") as broken:
                await collect(streamed.text_stream, got)
        assert ("".join(got)[:3], broken.value.type) == ("Hel", "api_error")

    talk(test)


def test_the_client_tries_again_when_it_is_told_to_wait(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        busy = {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}
        gateway.fakes["a"].script = [body(busy, 429, retry_after="1"), speak]
        async with client_of(gateway, max_retries=1) as client:
            answer = await client.messages.create(model="auto", max_tokens=5, messages=ASK)
        assert answer.content[0].to_dict()["text"] == "Hello"
        assert [each["exchange"]["status"] for each in gateway.exchanges()] == [429, 200]

    with_gateway(ONE_TRY, limits={"a": {"kind": "anthropic"}})(test)


def test_models_are_listed_as_anthropic_lists_them(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        async with client_of(gateway) as client:
            models = [model async for model in await client.models.list()]
            assert {"auto", "a", "auto/support"} <= {model.id for model in models}
            one = await client.models.retrieve("a")
            assert (one.type, one.display_name, one.created_at.tzinfo is None) == ("model", "a", False)
            with pytest.raises(anthropic.NotFoundError):
                await client.models.retrieve("nobody")

    with_gateway()(test)


def test_tokens_are_counted_by_the_target_or_estimated(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "x" * 9000}}
        seen: Any = [{"role": "user", "content": [{"type": "text", "text": "y" * 396}, image]}]
        async with client_of(gateway) as client:
            count = client.messages.with_raw_response.count_tokens
            gateway.fakes["claude"].script = [speak, error(500)]
            exact = await count(model="claude", messages=ASK, tools=[TOOL])
            assert ((await exact.parse()).input_tokens, exact.headers["x-sparkgate-target"]) == (
                4321,
                "claude",
            )
            assert "x-sparkgate-estimate" not in exact.headers
            assert gateway.fakes["claude"].calls[0]["model"] == "claude-model"
            for model in ("claude", "chat"):  # the first one has trouble
                guess = await count(model=model, messages=seen)
                assert (await guess.parse()).input_tokens == 99 + 4 + 1600
                assert guess.headers["x-sparkgate-estimate"] == "true"
            with_tools = await count(model="chat", messages=ASK, tools=[TOOL])
            without = await count(model="chat", messages=ASK)
            assert (await with_tools.parse()).input_tokens > (await without.parse()).input_tokens + 20
            invalid = {"type": "error", "error": {"type": "invalid_request_error", "message": "no such role"}}
            gateway.fakes["claude"].script = [body(invalid, 400)]
            with pytest.raises(anthropic.BadRequestError, match="no such role"):
                await count(model="claude", messages=ASK)
            with pytest.raises(anthropic.NotFoundError):
                await count(model="nobody", messages=ASK)
            with pytest.raises(anthropic.AuthenticationError):
                await client.with_options(api_key="sg-wrong").messages.count_tokens(
                    model="chat", messages=ASK
                )
        assert gateway.fakes["chat"].calls == []
        assert gateway.exchanges() == []

    limits = {"claude": {"kind": "anthropic"}}
    with_gateway(targets=("claude", "chat"), limits=limits, unknown_model="reject")(test)


CODING_TOOL = {
    **TOOL,
    "cache_control": {"type": "ephemeral"},
    "description": 'Reads "a" file.\n\tNot \\ written.',
}
CODING_CALL: dict[str, Any] = {
    "model": "claude-sonnet-5",
    "max_tokens": 32000,
    "system": [
        {"type": "text", "text": "You write code.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "text", "text": "Here is the folder.", "cache_control": {"type": "ephemeral"}},
    ],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Fix it é"}]}],
    "tools": [CODING_TOOL],
    "metadata": {"user_id": "user_1_session_2"},
    "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
    "thinking": {"type": "adaptive"},
    "stream": True,
}


def test_a_coding_agents_call_passes_as_it_is_or_translated(with_gateway: Prepare) -> None:
    """Its headers, its query string and its body, byte for byte, but for the name of the model."""

    async def test(gateway: Gateway) -> None:
        got: list[tuple[str, bytes, dict[str, str]]] = []

        async def note(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
            got.append(
                (request.path_qs, await request.read(), {k.lower(): v for k, v in request.headers.items()})
            )
            return await speak(request, asked)

        raw = json.dumps(CODING_CALL, indent=1, ensure_ascii=False).encode()
        headers = {"anthropic-beta": "claude-code-20250219,context-management-2025-06-27", "x-app": "cli"}
        for name in ("claude", "chat"):
            gateway.fakes[name].script = [note]
            sent = raw.replace(b"claude-sonnet-5", name.encode())
            async with gateway.session.post(
                f"{gateway.url}/v1/messages?beta=true",
                data=sent,
                headers={"x-api-key": KEY, "anthropic-version": "2026-10-21", **headers},
            ) as response:
                assert response.status == 200
                assert b"event: message_stop\n" in await response.read()
        (path, upstream_body, native), (chat_path, chat_body, translated) = got
        assert (path, upstream_body) == (
            "/v1/messages?beta=true",
            raw.replace(b"claude-sonnet-5", b"claude-model"),
        )
        assert native["x-api-key"] == "key-of-claude"
        assert native["anthropic-version"] == "2026-10-21"
        assert native["anthropic-beta"] == headers["anthropic-beta"]
        assert "authorization" not in native
        assert chat_path == "/v1/chat/completions"
        assert translated["authorization"] == "Bearer key-of-chat"
        assert not {"x-api-key", "anthropic-beta"} & translated.keys()
        said = json.loads(chat_body)
        assert said["messages"][0] == {"role": "system", "content": "You write code.\n\nHere is the folder."}
        assert said["tools"][0]["function"]["description"] == CODING_TOOL["description"]

    with_gateway(targets=("claude", "chat"), limits={"claude": {"kind": "anthropic"}})(test)


def test_a_target_of_both_apis_finds_its_key_in_either_place(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [speak]
        status, _, _ = await gateway.post({"model": "auto", "max_tokens": 5, "messages": ASK}, "/v1/messages")
        assert status == 200
        (headers,) = gateway.fakes["a"].headers
        assert (headers["authorization"], headers["x-api-key"]) == ("Bearer key-of-a", "key-of-a")
        assert headers["anthropic-version"] == "2023-06-01"

    both = ["/v1/chat/completions", "/v1/messages"]
    with_gateway(limits={"a": {"endpoints": both}})(test)
