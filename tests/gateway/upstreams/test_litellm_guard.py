"""What a caller writes into a body does not steer litellm, and what a provider answers does not lead it astray."""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest
from aiohttp import web

from gateway.upstreams import litellm_guard
from gateway.upstreams.base import CutOff, Unreachable, UpstreamCall
from gateway.upstreams.litellm_guard import NotPassed, arguments
from gateway.upstreams.litellm_provider import LitellmUpstream
from tests.fakes import FakeUpstream, error, fake_upstream, stream

# the library warns about itself; its warnings are not ours to mend
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "DeprecationWarning")]
KEY = "sk-planted/in+our=configuration"
BODY = {"model": "x", "messages": [{"role": "user", "content": "hello"}]}
CHAT = "/v1/chat/completions"


def run(test: Callable[[FakeUpstream, FakeUpstream], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with fake_upstream() as ours, fake_upstream() as foreign:
            await test(ours, foreign)

    asyncio.run(whole())


def call(is_stream: bool = False, **more: Any) -> UpstreamCall:
    return UpstreamCall(CHAT, orjson.dumps({**BODY, "stream": is_stream, **more}), is_stream, {})


async def failure_of(target: LitellmUpstream) -> str:
    """What is said of a call that has to fail."""
    try:
        reply = await target.send(call())
    except Unreachable as error:
        return str(error)
    assert reply.status != 200
    return (await reply.read()).decode()


def test_no_field_of_a_body_sends_our_key_elsewhere_or_changes_what_is_asked() -> None:
    async def test(ours: FakeUpstream, foreign: FakeUpstream) -> None:
        hostile: dict[str, Any] = {
            "api_base": foreign.url,
            "base_url": foreign.url,
            "api_key": "theirs",
            "custom_llm_provider": "anthropic",
            "extra_headers": {"X-Hostile": "1"},
            "headers": {"X-Hostile": "1"},
            "default_headers": {"X-Hostile": "1"},
            "extra_body": {"model": "dear", "hostile": True},
            "extra_query": {"hostile": "1"},
            "fallbacks": ["openai/other"],
            "context_window_fallback_dict": {"x": "openai/other"},
            "model_list": [
                {"model_name": "x", "litellm_params": {"model": "openai/x", "api_base": foreign.url}}
            ],
            "mock_response": "nobody was asked",
            "mock_tool_calls": [],
            "use_litellm_proxy": True,
            "proxy_server_request": {},
            "litellm_metadata": {"hostile": 1},
            "metadata": {"hostile": "1"},
            "callbacks": ["langfuse"],
            "langfuse_host": foreign.url,
            "ssl_verify": False,
            "num_retries": 5,
            "max_retries": 5,
            "drop_params": False,
            "timeout": 0.000001,
            "request_timeout": 0.000001,
            "aws_bedrock_runtime_endpoint": foreign.url,
            "vertex_credentials": "/etc/passwd",
            "deployment_id": "dear",
            "organization": "hostile",
            "allowed_openai_params": ["hostile"],
            "acompletion": False,
            "shared_session": "hostile",
            "self": 1,
            "kwargs": {},
        }
        target = LitellmUpstream("openai/m", KEY, ours.url)
        reply = await target.send(call(**hostile))
        assert (reply.status, orjson.loads(await reply.read())["choices"][0]["message"]["content"]) == (
            200,
            "Hello",
        )
        assert foreign.calls == []
        assert ours.calls == [{"messages": BODY["messages"], "model": "m"}]
        (headers,) = ours.headers
        assert headers["authorization"] == f"Bearer {KEY}"
        assert not any("hostile" in f"{name}{value}".lower() for name, value in headers.items())
        for name, value in hostile.items():
            assert name not in arguments("acompletion", {**BODY, name: value}, drops=True)

    run(test)


def test_a_target_that_refuses_what_it_is_not_told_names_it() -> None:
    with pytest.raises(NotPassed, match="'api_base', 'hostile'"):
        arguments("acompletion", {**BODY, "api_base": "x", "hostile": 1}, drops=False)


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data"}},
        {"type": "image_url", "image_url": "https://example.com/a.png"},
        {"type": "image_url", "image_url": {"url": "/etc/passwd"}},
        {"type": "image_url", "image_url": {"url": " HTTP://example.com/a.png"}},
        {"type": "file", "file": {"file_id": "https://example.com/a.pdf"}},
        {"type": "file", "file": {"file_data": "file:///etc/passwd"}},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        {"type": "tool_result", "content": [{"type": "image_url", "image_url": {"url": "gs://bucket/a"}}]},
        {"type": "unheard_of", "deep": [{"er": "ftp://example.com"}]},
    ],
)
def test_nothing_that_a_message_names_is_fetched(part: dict[str, Any]) -> None:
    async def test(ours: FakeUpstream, _: FakeUpstream) -> None:
        messages = [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, part]}]
        reply = await LitellmUpstream("openai/m", KEY, ours.url).send(call(messages=messages))
        said = orjson.loads(await reply.read())["error"]
        assert (reply.status, said["type"], ours.calls) == (400, "invalid_request_error", [])
        assert "gets no addresses to fetch" in said["message"]

    run(test)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "read https://example.com/a"},
        {"role": "user", "content": [{"type": "text", "text": "https://example.com"}, IMAGE]},
        {"role": "user", "content": [{"type": "tool_result", "content": "https://example.com"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "http://a"}}
            ],
        },
    ],
)
def test_addresses_in_text_are_text(message: dict[str, Any]) -> None:
    body = {"messages": [message]}
    assert arguments("acompletion", body, drops=True) == body


def test_no_mcp_server_is_called() -> None:
    with pytest.raises(NotPassed, match="MCP"):
        arguments(
            "acompletion", {**BODY, "tools": [{"type": "mcp", "server_url": "litellm_proxy"}]}, drops=True
        )


def test_a_redirect_is_not_followed() -> None:
    async def test(ours: FakeUpstream, foreign: FakeUpstream) -> None:
        async def elsewhere(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
            return web.Response(status=307, headers={"Location": f"{foreign.url}/chat/completions"})

        for model in ("openai/m", "anthropic/m"):
            ours.script = [elsewhere] * 3
            base = ours.url if model == "openai/m" else ours.url.removesuffix("/v1")
            await failure_of(LitellmUpstream(model, KEY, base))
            assert ours.script != [elsewhere] * 3
            assert foreign.calls == []

    run(test)


def test_a_compressed_answer_is_not_unpacked() -> None:
    async def test(ours: FakeUpstream, _: FakeUpstream) -> None:
        async def bomb(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
            return web.Response(body=gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"})

        ours.script = [bomb]
        await failure_of(LitellmUpstream("openai/m", KEY, ours.url))
        assert ours.headers[0]["accept-encoding"] == "identity"

    run(test)


def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(ours: FakeUpstream, _: FakeUpstream) -> None:
        async def endless(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b" " * 10_000)

        monkeypatch.setattr(litellm_guard, "MAX_BODY_BYTES", 100_000)
        ours.script = [endless]
        await failure_of(LitellmUpstream("openai/m", KEY, ours.url))

    run(test)


def test_errors_do_not_tell_our_keys(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(ours: FakeUpstream, _: FakeUpstream) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-in-the-environment")
        target = LitellmUpstream("openai/m", KEY, ours.url)
        ours.script = [error(401, message=f"bad key {KEY}, planted-in-the-environment")]
        said = await (await target.send(call())).read()
        assert b"bad key (hidden), (hidden)" in said
        broken = LitellmUpstream("openai/m", KEY, "http://127.0.0.1:9")
        unreachable = await failure_of(broken)
        ours.script = [stream(b'data: {"error": {"message": "it is %b", "code": 500}}\n\n' % KEY.encode())]
        with pytest.raises(CutOff) as cut_off:
            async for _chunk in (await target.send(call(is_stream=True))).chunks():
                pass
        for told in (unreachable, str(cut_off.value), caplog.text):
            assert KEY not in told
            assert "Traceback" not in told

    with caplog.at_level(logging.DEBUG, logger="gateway"):
        run(test)
