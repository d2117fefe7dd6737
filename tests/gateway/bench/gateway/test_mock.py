"""The mock upstream is correct HTTP and answers as OpenAI does, also to OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from openai import AsyncOpenAI

from gateway.bench.gateway.readings import Cell
from gateway.bench.gateway.traffic import PATH, Mock
from tests.gateway.bench.gateway.conftest import Run

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: mock\r\n"


def request(body: bytes, *headers: bytes) -> bytes:
    return (
        HEAD
        + b"".join(each + b"\r\n" for each in headers)
        + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )


async def answers(upstream: Mock, *pieces: bytes) -> bytes:
    """What comes back when these bytes are sent, the last of which make the mock close the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(upstream.url.rpartition(":")[2]))
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.01)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


def test_openais_client_reads_whole_answers_and_streams(with_mock: Run) -> None:
    async def ask(upstream: Mock) -> Any:
        await upstream.prepare(Cell("short", concurrency=1, chunks=3))
        async with AsyncOpenAI(base_url=f"{upstream.url}/v1", api_key="any") as client:
            call: Any = {"model": "any", "messages": [{"role": "user", "content": "hello"}]}
            whole = await client.chat.completions.create(**call)
            stream = await client.chat.completions.create(
                **call, stream=True, stream_options={"include_usage": True}
            )
            return whole, [chunk async for chunk in stream]

    whole, chunks = with_mock(ask)
    assert whole.choices[0].message.content.startswith("A gateway stands between")
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert [chunk.choices[0].delta.content for chunk in chunks[:3]] == [" word0", " word1", " word2"]
    assert [chunk.choices[0].finish_reason for chunk in chunks[:3]] == [None, None, "stop"]
    assert (chunks[3].choices, chunks[3].usage.completion_tokens) == ([], 3)
    assert len(chunks) == 4


def test_usage_comes_only_where_it_is_asked_for(with_mock: Run) -> None:
    async def ask(upstream: Mock) -> str:
        async with upstream.session.post(upstream.url + PATH, json={"stream": True}) as answer:
            assert answer.content_type == "text/event-stream"
            return await answer.text()

    text = with_mock(ask)
    assert text.count("data: {") == 64
    assert text.endswith("\n\ndata: [DONE]\n\n")
    assert "usage" not in text


def test_every_chunk_is_an_http_chunk_of_its_own(with_mock: Run) -> None:
    async def ask(upstream: Mock) -> list[bytes]:
        await upstream.prepare(Cell("short", concurrency=1, chunks=2))
        async with upstream.session.post(upstream.url + PATH, json={"stream": True}) as answer:
            return [chunk async for chunk, ends in answer.content.iter_chunks() if ends]

    chunks = with_mock(ask)
    assert [chunk[:6] for chunk in chunks] == [b"data: "] * 3
    assert all(chunk.endswith(b"\n\n") and chunk.count(b"\n\n") == 1 for chunk in chunks)


def test_a_request_may_come_in_pieces_in_chunks_or_with_others(with_mock: Run) -> None:
    stream = json.dumps({"stream": True}).encode()
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n8\r\n" + stream[:8] + b"\r\n8\r\n" + stream[8:]
    last = request(b"{}", b"Connection: close")

    async def ask(upstream: Mock) -> bytes:
        await upstream.prepare(Cell("short", concurrency=1, chunks=1))
        return await answers(
            upstream,
            request(b"{}")[:40],
            request(b"{}")[40:] + chunked[:-3],
            chunked[-3:] + b"\r\n0\r\n\r\n" + last,
        )

    text = with_mock(ask)
    assert text.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert text.count(b'"chat.completion"') == 2
    assert text.count(b"data: [DONE]") == 1


def test_words_about_streams_ask_for_none(with_mock: Run) -> None:
    body = json.dumps({"stream": False, "messages": [{"content": '"stream": true'}]}).encode()
    text = with_mock(lambda upstream: answers(upstream, request(body, b"Connection: close")))
    assert b"Content-Type: application/json\r\n" in text


def test_what_is_no_http_is_refused(with_mock: Run) -> None:
    text = with_mock(
        lambda upstream: answers(upstream, HEAD + b"Transfer-Encoding: chunked\r\n\r\nnot a size\r\n")
    )
    assert text.startswith(b"HTTP/1.1 400 ")


def test_an_answer_longer_than_the_sockets_buffer_arrives_whole(with_mock: Run) -> None:
    async def ask(upstream: Mock) -> bytes:
        await upstream.prepare(Cell("long", concurrency=1, chunks=60_000))
        async with upstream.session.post(upstream.url + PATH, json={"stream": True}) as answer:
            await asyncio.sleep(0.3)
            return await answer.read()

    text = with_mock(ask)
    assert text.count(b"data: {") == 60_000
    assert b" word59999" in text
