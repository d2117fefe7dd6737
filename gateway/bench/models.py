"""`sparkgate bench models`: the same prompt many times against model names of a running gateway, over real HTTP.

In: a `Plan`. Out: `Sample`s, handed over one by one, so that an interrupted run keeps what it has. Runs are
interleaved over the models, so that drift of machine and network hits all alike. Knows no database and no terminal.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from gateway.bench.samples import Sample

DEFAULT_PROMPT = "Explain in three sentences why the sky is blue."
_CONNECT_S = 10.0
_FIRST_TOKEN_KEYS = ("content", "refusal", "reasoning_content", "reasoning", "tool_calls", "function_call")


class GatewayUnreachable(Exception):
    """No gateway can be measured at this URL with this key; the message says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. `timeout_s` is the patience of this client, for one whole call."""

    url: str
    models: tuple[str, ...]
    runs: int
    prompt: str = DEFAULT_PROMPT
    max_tokens: int = 128
    concurrency: int = 1
    timeout_s: float = 300.0
    api_key: str = field(default="", repr=False)

    def calls(self) -> Iterator[tuple[str, int]]:
        """(model, run): every run calls all models, each time beginning with another one."""
        for run in range(self.runs):
            shift = run % len(self.models)
            for model in self.models[shift:] + self.models[:shift]:
                yield model, run


async def measure(plan: Plan, keep: Callable[[Sample], None]) -> None:
    """Make all calls of the plan, `plan.concurrency` at a time. Raises GatewayUnreachable before the first."""
    timeout = aiohttp.ClientTimeout(total=plan.timeout_s, sock_connect=_CONNECT_S)
    headers = {"Authorization": f"Bearer {plan.api_key}"}
    connector = aiohttp.TCPConnector(limit=plan.concurrency)
    async with aiohttp.ClientSession(timeout=timeout, headers=headers, connector=connector) as session:
        await _check(session, plan.url)
        calls = plan.calls()  # shared by the lanes: each takes the next call that nobody has

        async def lane() -> None:
            for model, run in calls:
                keep(await _call(session, plan, model, run))

        async with asyncio.TaskGroup() as lanes:
            for _ in range(plan.concurrency):
                lanes.create_task(lane())


async def _check(session: aiohttp.ClientSession, url: str) -> None:
    try:
        async with session.get(f"{url}/v1/models") as answer:
            if answer.status == 200:
                return
            code, message = _error_of(await answer.read(), answer.status)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise GatewayUnreachable(
            f"no gateway answers at {url} ({error}). Start one with `sparkgate up`, or name it with --url."
        ) from error
    raise GatewayUnreachable(f"the gateway at {url} refused ({answer.status} {code}): {message}")


async def _call(session: aiohttp.ClientSession, plan: Plan, model: str, run: int) -> Sample:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": plan.prompt}],
        "max_tokens": plan.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    seen = _Seen(time.perf_counter())
    try:
        async with session.post(f"{plan.url}/v1/chat/completions", json=body) as answer:
            seen.status, seen.headers = answer.status, answer.headers
            if answer.status == 200:
                await seen.stream(_events(answer))
            else:
                seen.error_code, _ = _error_of(await answer.read(), answer.status)
    except TimeoutError:
        seen.error_code = "client_timeout"
    except aiohttp.ClientConnectorError:
        seen.error_code = "connect_error"
    except (aiohttp.ClientError, ValueError):
        seen.error_code = "cut_off" if seen.status else "connect_error"
    return seen.sample(model, run)


@dataclass(slots=True)
class _Seen:
    """What one call has shown so far."""

    began: float
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)  # names in any case, once there is an answer
    ttft_s: float | None = None
    output_tokens: int | None = None
    error_code: str | None = None

    async def stream(self, events: AsyncIterator[dict[str, Any] | None]) -> None:
        """Read to the end mark; a stream that ends without it was cut off."""
        async for event in events:
            if event is None:
                return
            if event.get("error"):
                self.error_code = _code(event["error"], "stream_error")
                return
            if self.ttft_s is None and _has_token(event):
                self.ttft_s = time.perf_counter() - self.began
            usage = event.get("usage")
            if isinstance(usage, dict):
                self.output_tokens = usage.get("completion_tokens")
        self.error_code = "cut_off"

    def sample(self, model: str, run: int) -> Sample:
        return Sample(
            model=model,
            run=run,
            total_s=time.perf_counter() - self.began,
            ttft_s=self.ttft_s,
            output_tokens=self.output_tokens,
            error_code=self.error_code,
            status=self.status,
            target=self.headers.get("X-Sparkgate-Target"),
            request_id=self.headers.get("X-Request-Id"),
        )


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any] | None]:
    """The JSON of each `data:` line; None for `[DONE]`. Raises ValueError for what is no JSON."""
    async for line in answer.content:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            yield None
        elif data:
            event = orjson.loads(data)
            if isinstance(event, dict):
                yield event


def _has_token(event: dict[str, Any]) -> bool:
    return any(
        (choice.get("delta") or {}).get(key)
        for choice in event.get("choices") or []
        for key in _FIRST_TOKEN_KEYS
    )


def _error_of(body: bytes, status: int) -> tuple[str, str]:
    """(code, message) of an OpenAI-shaped error, or the status and the beginning of whatever came instead."""
    try:
        error = orjson.loads(body)["error"]
        return _code(error, f"http_{status}"), str(error.get("message", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"http_{status}", body[:200].decode(errors="replace")


def _code(error: Any, otherwise: str) -> str:
    found = (error.get("code") or error.get("type")) if isinstance(error, dict) else None
    return str(found) if found else otherwise
