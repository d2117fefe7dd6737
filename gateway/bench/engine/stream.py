"""One wave over HTTP: chat completions of a server that speaks OpenAI's, all sent at once and streamed.

In: request bodies. Out: a `Trace` each; a failed answer is a trace with its error. While answers arrive,
bytes are only kept with their time; they are read when all have ended, so that the client takes little from
the cores it measures.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any

import aiohttp
import orjson

from gateway.bench.engine.traces import Trace
from gateway.wire.sse import EventSplitter, data_of

Arrivals = list[tuple[float, bytes]]


async def wave(
    session: aiohttp.ClientSession, url: str, bodies: Sequence[dict[str, Any]]
) -> tuple[Trace, ...]:
    """`url` is the server's, without a path."""
    began = time.perf_counter()
    answers = await asyncio.gather(*(_answer(session, url, body, began) for body in bodies))
    return tuple(trace_of(*answer) for answer in answers)


async def _answer(
    session: aiohttp.ClientSession, url: str, body: dict[str, Any], began: float
) -> tuple[int | None, Arrivals, str]:
    """(status, what came when, what broke the connection)."""
    arrivals: Arrivals = []
    status = None
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
            status = answer.status
            async for data in answer.content.iter_any():
                arrivals.append((time.perf_counter() - began, data))
    except (aiohttp.ClientError, TimeoutError) as error:
        return status, arrivals, f"{type(error).__name__}: {error}".rstrip(": ")
    return status, arrivals, ""


def trace_of(status: int | None, arrivals: Arrivals, broken: str = "") -> Trace:
    """What the bytes of one answer say."""
    if broken:
        return Trace(error=broken)
    if status != 200:
        return Trace(error=f"HTTP {status}: {_message(b''.join(data for _, data in arrivals))}")
    pieces: list[tuple[float, int]] = []
    own: dict[str, Any] = {}
    end_s, tokens = None, None
    for at_s, event in _events(arrivals):
        if "error" in event:
            return Trace(error=_message(orjson.dumps(event)))
        for choice in event.get("choices") or []:
            text = (choice.get("delta") or {}).get("content")
            if text:
                pieces.append((at_s, len(text)))
            if choice.get("finish_reason"):
                end_s = at_s
        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
        own = event.get("sparkgate") or own
    if end_s is None or tokens is None:
        return Trace(error="the stream ended without a finish reason or a count of its tokens")
    counts = {name: own.get(name) for name in ("rounds", "drafted", "verified", "accepted")}
    return Trace(tuple(pieces), end_s, tokens, **counts)


def _events(arrivals: Arrivals) -> Iterator[tuple[float, dict[str, Any]]]:
    """The JSON objects of the stream, with the time at which each was whole."""
    splitter = EventSplitter()
    for at_s, data in arrivals:
        for event in splitter.feed(data):
            content = data_of(event)
            if content and content != b"[DONE]":
                yield at_s, orjson.loads(content)


def _message(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
