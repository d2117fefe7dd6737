"""The load generator against the mock and against servers that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.bench.gateway.readings import Cell, Load
from gateway.bench.gateway.traffic import PATH, BenchFailed, Mock, load
from tests.gateway.bench.gateway.conftest import Run

SECONDS = 0.2
WHOLE = Cell("whole", concurrency=4)
STREAMS = Cell("streams", concurrency=4, chunks=5)
BODY = b'{"choices": []}'
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


def called(with_mock: Run, cell: Cell, folder: Path, seconds: float = SECONDS, **settings: int) -> Load:
    async def call(upstream: Mock) -> Load:
        await upstream.prepare(cell)
        for name, value in settings.items():
            async with upstream.session.post(f"{upstream.url}/settings?{name.replace('_', '-')}={value}"):
                pass
        return await load(upstream.url + PATH, {}, cell, seconds, folder)

    found: Load = with_mock(call)
    return found


def scripted(answer: Sequence[bytes], cell: Cell, folder: Path, *, closes: bool = False) -> tuple[Load, int]:
    """What is seen of a server that sends these pieces in answer to each request, and its connections."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
                assert b"\r\nX-Task-Shape: general\r\n" in head
                for piece in answer:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if closes:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def call() -> Load:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{PATH}"
            return await load(url, {"X-Task-Shape": "general"}, cell, SECONDS, folder)

    return asyncio.run(call()), connections


def event(content: str) -> bytes:
    return b'data: {"choices": [{"delta": {"content": "%b"}}]}\n\n' % content.encode()


def chunked(*chunks: bytes) -> bytes:
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


def test_a_closed_loop_keeps_calling(with_mock: Run, tmp_path: Path) -> None:
    seen = called(with_mock, WHOLE, tmp_path)
    assert (seen.errors, seen.first_error, seen.first_ms) == (0, None, None)
    assert seen.calls > 2 * WHOLE.concurrency
    assert seen.took_s >= SECONDS
    assert seen.total_ms is not None
    assert 0 < seen.total_ms["p50"] <= seen.total_ms["p90"] <= seen.total_ms["p99"] <= seen.total_ms["max"]


def test_streams_are_timed_up_to_their_first_content(with_mock: Run, tmp_path: Path) -> None:
    seen = called(with_mock, Cell("streams", concurrency=2, chunks=3, gap_ms=20), tmp_path)
    assert seen.errors == 0
    assert seen.total_ms is not None
    assert seen.first_ms is not None
    assert seen.total_ms["p50"] - seen.first_ms["p50"] >= 30  # two gaps, one of which may have been late


def test_an_open_loop_makes_the_calls_that_are_due_and_counts_their_wait(
    with_mock: Run, tmp_path: Path
) -> None:
    """One connection, 50 ms an answer, a call due each 10 ms: the last of 10 is due at 90 ms, answered after 500."""
    seen = called(with_mock, Cell("paced", concurrency=1, rate=100), tmp_path, seconds=0.1, first_ms=50)
    assert (seen.calls, seen.errors) == (10, 0)
    assert seen.total_ms is not None
    assert seen.total_ms["max"] >= 500 - 90
    assert seen.total_ms["p50"] >= 250 - 40


def test_an_answer_may_come_in_any_pieces(built: None, tmp_path: Path) -> None:
    stream = chunked(event(""), event("a")[:20], event("a")[20:] + event("b"), b"data: [DONE]\n\n")
    for answer, cell in ((GOOD, WHOLE), (stream, Cell("streams", concurrency=2, chunks=2))):
        seen, connections = scripted([bytes([byte]) for byte in answer], cell, tmp_path)
        assert (seen.errors, seen.first_error) == (0, None)
        assert seen.calls >= connections == cell.concurrency


def test_an_answer_may_end_with_its_connection(built: None, tmp_path: Path) -> None:
    seen, connections = scripted([b"HTTP/1.1 200 OK\r\n\r\n" + BODY], WHOLE, tmp_path, closes=True)
    assert seen.errors == 0
    assert connections >= seen.calls > WHOLE.concurrency


@pytest.mark.parametrize(
    ("answer", "cell", "error"),
    [
        (GOOD.replace(b"200 OK", b"429 Wait"), WHOLE, "HTTP 429:"),
        (GOOD.replace(b"choices", b"chances"), WHOLE, "no chat completion"),
        (chunked(event("a"), b"data: [DONE]\n\n"), STREAMS, "ended after 1 of 5 events, with [DONE]"),
        (chunked(*[event("a")] * 5), STREAMS, "ended after 5 of 5 events, without [DONE]"),
        (chunked(*[event("")] * 5, b"data: [DONE]\n\n"), STREAMS, "ended after 0 of 5 events"),
    ],
    ids=["status", "no chat completion", "too few events", "no end", "no content"],
)
def test_an_answer_that_is_not_whole_is_an_error(
    built: None, tmp_path: Path, answer: bytes, cell: Cell, error: str
) -> None:
    seen, _ = scripted([answer], cell, tmp_path)
    assert (seen.calls, seen.total_ms) == (0, None)
    assert seen.errors > 0
    assert error in str(seen.first_error)


def test_an_answer_that_is_cut_off_is_an_error(built: None, tmp_path: Path) -> None:
    seen, _ = scripted([GOOD[:-3]], WHOLE, tmp_path, closes=True)
    assert seen.calls == 0
    assert seen.first_error == "the connection was closed within an answer"


def test_a_server_that_is_not_there_is_told(built: None, tmp_path: Path) -> None:
    with pytest.raises(BenchFailed, match="cannot connect: Connection refused"):
        asyncio.run(load(f"http://127.0.0.1:9{PATH}", {}, WHOLE, SECONDS, tmp_path))
