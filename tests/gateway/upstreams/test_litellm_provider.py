"""litellm as a target, over real HTTP: its `openai/` provider talks to a scripted upstream."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from gateway.upstreams.base import UpstreamCall
from gateway.upstreams.litellm_provider import LitellmUpstream
from gateway.wire.chat import read_event, usage_of
from gateway.wire.sse import EventSplitter
from tests.fakes import FakeUpstream, error, fake_upstream

# the library warns about itself; its warnings are not ours to mend
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "DeprecationWarning")]
BODY = {"model": "x", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}


def run(test: Callable[[FakeUpstream, LitellmUpstream], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with fake_upstream() as fake:
            await test(fake, LitellmUpstream("openai/some-model", "sk-secret-of-ours", fake.url))

    asyncio.run(whole())


def call(stream: bool, **more: Any) -> UpstreamCall:
    body = orjson.dumps({**BODY, "stream": stream, **more})
    return UpstreamCall("/v1/chat/completions?beta=true", body, stream, {})


def test_a_body_comes_in_openais_shape() -> None:
    async def test(fake: FakeUpstream, upstream: LitellmUpstream) -> None:
        reply = await upstream.send(call(stream=False))
        value = orjson.loads(await reply.read())
        assert reply.status == 200
        assert value["choices"][0]["message"]["content"] == "Hello"
        usage = usage_of(value)
        assert usage is not None
        assert (usage.input_tokens, usage.output_tokens) == (7, 2)
        assert fake.calls[0]["model"] == "some-model"
        assert fake.headers[0]["authorization"] == "Bearer sk-secret-of-ours"

    run(test)


def test_trace_context_is_passed_on_and_nothing_else() -> None:
    async def test(fake: FakeUpstream, upstream: LitellmUpstream) -> None:
        traced = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "vendor=1"}
        given = {**traced, "X-Request-Id": "req_1"}
        await upstream.send(replace(call(stream=False), headers=given))
        seen = fake.headers[0]
        assert traced.items() <= seen.items()
        assert "x-request-id" not in seen

    run(test)


def test_a_stream_comes_as_events_with_usage_and_done() -> None:
    async def test(_: FakeUpstream, upstream: LitellmUpstream) -> None:
        reply = await upstream.send(call(stream=True, stream_options={"include_usage": True}))
        splitter = EventSplitter()
        pieces = [read_event(event) async for chunk in reply.chunks() for event in splitter.feed(chunk)]
        text = "".join(_text(piece.value) for piece in pieces if piece.value)
        assert text == "Hello"
        assert [piece.usage.output_tokens for piece in pieces if piece.usage] == [2]
        assert pieces[-1].is_done

    run(test)


def test_errors_keep_their_status_and_are_not_retried_by_the_library() -> None:
    async def test(fake: FakeUpstream, upstream: LitellmUpstream) -> None:
        fake.script = [error(429, "rate_limit_exceeded", "slow down")] * 5
        reply = await upstream.send(call(stream=False))
        assert reply.status == 429
        assert "slow down" in orjson.loads(await reply.read())["error"]["message"]
        assert len(fake.calls) == 1

    run(test)


def test_nothing_imports_litellm_until_such_a_target_is_called() -> None:
    code = "import sys, gateway.worker, gateway.assemble; sys.exit('litellm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def _text(value: dict[str, Any]) -> str:
    return "".join((choice.get("delta") or {}).get("content") or "" for choice in value.get("choices", []))
