"""`sparkgate bench models`: the same prompts many times against model names of a running gateway, over real HTTP.

In: a `Plan`. Out: `Sample`s and answers, handed over one by one, so that an interrupted run keeps what it has. Runs
are interleaved over the models, so that drift of machine and network hits all alike. Knows no database and no terminal.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from gateway.bench.prompts import Prompt
from gateway.bench.samples import Sample

Keep = Callable[[Sample, str], None]  # with each sample the answer's text
_CONNECT_S = 10.0
_FIRST_TOKEN_KEYS = ("content", "refusal", "reasoning_content", "reasoning", "tool_calls", "function_call")


class GatewayUnreachable(Exception):
    """No gateway can be measured at this URL with this key; the message says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure: `runs` calls a model, the prompts in turn, `max_tokens` where a prompt has no limit of its own.

    `timeout_s` is the patience of this client, for one whole call.
    """

    url: str
    models: tuple[str, ...]
    runs: int
    prompts: tuple[Prompt, ...]
    max_tokens: int = 256
    stream: bool = True
    concurrency: int = 1
    timeout_s: float = 300.0
    api_key: str = field(default="", repr=False)

    def calls(self) -> Iterator[tuple[str, int, Prompt]]:
        """(model, run, prompt): every run calls all models, each time beginning with another one."""
        for run in range(self.runs):
            shift, prompt = run % len(self.models), self.prompts[run % len(self.prompts)]
            for model in self.models[shift:] + self.models[:shift]:
                yield model, run, prompt


async def measure(plan: Plan, keep: Keep) -> None:
    """Make all calls of the plan, `plan.concurrency` at a time. Raises GatewayUnreachable before the first."""
    timeout = aiohttp.ClientTimeout(total=plan.timeout_s, sock_connect=_CONNECT_S)
    headers = {"Authorization": f"Bearer {plan.api_key}"}
    connector = aiohttp.TCPConnector(limit=plan.concurrency)
    async with aiohttp.ClientSession(timeout=timeout, headers=headers, connector=connector) as session:
        await _check(session, plan.url)
        calls = plan.calls()  # shared by the lanes: each takes the next call that nobody has

        async def lane() -> None:
            for model, run, prompt in calls:
                keep(*await _call(session, plan, model, run, prompt))

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


async def _call(
    session: aiohttp.ClientSession, plan: Plan, model: str, run: int, prompt: Prompt
) -> tuple[Sample, str]:
    body: dict[str, Any] = {
        "model": model,
        "messages": prompt.messages,
        "max_tokens": prompt.max_tokens or plan.max_tokens,
    }
    if plan.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if prompt.response_format is not None:
        body["response_format"] = prompt.response_format
    seen = _Seen(time.perf_counter())
    try:
        async with session.post(f"{plan.url}/v1/chat/completions", json=body) as answer:
            seen.status, seen.headers = answer.status, answer.headers
            if answer.status == 200 and plan.stream:
                await seen.stream(_events(answer))
            elif answer.status == 200:
                seen.whole(orjson.loads(await answer.read()))
            else:
                seen.error_code, _ = _error_of(await answer.read(), answer.status)
    except TimeoutError:
        seen.error_code = "client_timeout"
    except aiohttp.ClientConnectorError:
        seen.error_code = "connect_error"
    except (aiohttp.ClientError, ValueError):
        seen.error_code = "cut_off" if seen.status else "connect_error"
    return seen.sample(model, run, prompt.name), "".join(seen.text)


@dataclass(slots=True)
class _Seen:
    """What one call has shown so far."""

    began: float
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)  # names in any case, once there is an answer
    ttft_s: float | None = None
    output_tokens: int | None = None
    error_code: str | None = None
    text: list[str] = field(default_factory=list)
    ended: float | None = None

    def whole(self, body: Any) -> None:
        """An answer that was not streamed. Raises ValueError for what is none."""
        self.ended = time.perf_counter()
        try:
            self.text.append(body["choices"][0]["message"].get("content") or "")
            self._count(body.get("usage"))
        except (KeyError, IndexError, TypeError, AttributeError):
            raise ValueError("no answer of chat completions") from None

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
            self.text += _content(event)
            self._count(event.get("usage"))
        self.error_code = "cut_off"

    def _count(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self.output_tokens = usage.get("completion_tokens")

    def sample(self, model: str, run: int, prompt: str) -> Sample:
        return Sample(
            model=model,
            run=run,
            prompt=prompt,
            total_s=(self.ended or time.perf_counter()) - self.began,
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


def _content(event: dict[str, Any]) -> list[str]:
    pieces = [(choice.get("delta") or {}).get("content") for choice in event.get("choices") or []]
    return [piece for piece in pieces if isinstance(piece, str)]


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
