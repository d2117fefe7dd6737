"""A hostile upstream as a process of its own: bytes on sockets, one misbehaviour a model name.

`python -m tests.faults.hostile FOLDER` listens on free ports of loopback, with the certificates in FOLDER where it
speaks TLS, prints its ports by name as one line of JSON, and serves until its input ends. A call whose body names the
model `chat/<misbehaviour>` (or `messages/…`, `responses/…`) gets what `MISBEHAVIOURS` has under that name: steps, of
which bytes go over the wire as they are, a number waits so many seconds, and an `End` ends the connection.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from enum import Enum
from pathlib import Path
from typing import Any

from tests.fakes import DONE, GOOD_BODY, chunk, usage_chunk
from tests.faults.answers import TEXT, Asked, in_utf8
from tests.raw_upstream import END, Line, deaf_port, framed, head, raw_upstream

LATE_S = 9.0  # later than every deadline of the tests' policy
FOREVER_S = 60.0
DRIP_S = 1.0
MB = 1024**2
CERTIFICATES = ("good", "self_signed", "expired", "other_host")


class End(Enum):
    RESET = 0  # RST: the other side sees an error
    CLOSE = 1  # FIN


Step = bytes | float | End
Play = Callable[[Asked], Iterable[Step]]


def sent(asked: Asked, part: bytes, *, lines: tuple[str, ...] = ()) -> list[Step]:
    """The head of a sound answer, and of its body no more than `part`: the end of the body is not said."""
    if asked.stream:
        return [head(200, *lines) + framed(part)]
    return [_json_head(len(asked.raw), *lines) + part]


def whole(asked: Asked, *, lines: tuple[str, ...] = ()) -> bytes:
    """A sound answer."""
    if asked.stream:
        return head(200, *lines) + framed(asked.events) + END
    return _json_head(len(asked.raw), *lines) + asked.raw


def half(asked: Asked) -> list[Step]:
    """Of a stream its first token, of a body its first half."""
    return sent(asked, asked.opening if asked.stream else asked.raw[: len(asked.raw) // 2])


def streamed(*parts: bytes) -> bytes:
    return head() + framed(b"".join(parts)) + END


def said(raw: bytes, status: int = 200, kind: str = "application/json", *lines: str) -> bytes:
    """Any body, well framed."""
    top = [f"HTTP/1.1 {status} Said", f"Content-Type: {kind}", f"Content-Length: {len(raw)}", *lines, "", ""]
    return "\r\n".join(top).encode() + raw


def refused(asked: Asked, status: int, *lines: str, message: str = "no") -> bytes:
    return said(json.dumps(asked.error("server_error", message)).encode(), status, "application/json", *lines)


def packed(asked: Asked, data: bytes) -> bytes:
    """A body said to be gzip."""
    kind = "text/event-stream" if asked.stream else "application/json"
    return said(data, 200, kind, "Content-Encoding: gzip")


def plain(asked: Asked) -> bytes:
    return asked.events if asked.stream else asked.raw


def _json_head(length: int, *lines: str) -> bytes:
    top = ["HTTP/1.1 200 OK", "Content-Type: application/json", f"Content-Length: {length}", *lines, "", ""]
    return "\r\n".join(top).encode()


def dripped(data: bytes, frame: Callable[[bytes], bytes] = bytes) -> Iterator[Step]:
    for at in range(len(data)):
        yield frame(data[at : at + 1])
        yield DRIP_S


def comments(asked: Asked) -> Iterator[Step]:
    yield head()
    for _ in range(int(FOREVER_S / 0.1)):
        yield framed(b": still here\n\n")
        yield 0.1


def usage_of(asked: Asked, *values: Any) -> bytes:
    """Chat's stream or body, with these in the place of its usage."""
    if not asked.stream:
        return said(json.dumps({**asked.body, "usage": values[-1]}).encode())
    told = b"".join(chunk(choices=[], usage=value) for value in values)
    return streamed(asked.opening, asked.more, asked.finish, told, DONE)


def without_usage(asked: Asked) -> bytes:
    if not asked.stream:
        return said(json.dumps({key: value for key, value in asked.body.items() if key != "usage"}).encode())
    return streamed(asked.opening, asked.more, asked.finish, DONE)


HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
_USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
_CHOICE = {"index": 0, "message": {"role": "assistant", "content": TEXT}}
NOTHING_MORE: list[Step] = [FOREVER_S]
MISBEHAVIOURS: dict[str, Play] = {
    "sound": lambda asked: [whole(asked)],
    # It is silent, or slow.
    "never_answers": lambda _: NOTHING_MORE,
    "answers_too_late": lambda asked: [LATE_S, whole(asked)],
    "silent_after_head": lambda asked: [*sent(asked, b""), *NOTHING_MORE],
    "silent_in_mid_answer": lambda asked: [*half(asked), *NOTHING_MORE],
    "silent_after_comments": comments,
    "drips_head": lambda asked: dripped(whole(asked)),
    "drips_body": lambda asked: [
        *sent(asked, b""),
        *dripped(framed(asked.events) if asked.stream else asked.raw),
    ],
    "drips_after_first_token": lambda asked: [*half(asked), *dripped(asked.more, framed)],
    # The connection breaks.
    "resets_before_head": lambda _: [End.RESET],
    "closes_before_head": lambda _: [End.CLOSE],
    "resets_in_head": lambda asked: [whole(asked)[:20], 0.02, End.RESET],
    "resets_after_head": lambda asked: [*sent(asked, b""), 0.02, End.RESET],
    "closes_after_head": lambda asked: [*sent(asked, b""), End.CLOSE],
    "resets_in_mid_answer": lambda asked: [*half(asked), 0.05, End.RESET],
    "closes_in_mid_answer": lambda asked: [*half(asked), End.CLOSE],
    "resets_inside_a_character": lambda asked: _inside_a_character(asked),
    "sends_half_an_event": lambda asked: [streamed(asked.opening, asked.more[: len(asked.more) // 2])],
    "ends_without_an_end": lambda asked: [streamed(asked.opening, asked.more)],
    # What it says is not what was asked for.
    "10_mb_without_newline": lambda asked: _endless_line(asked, b""),
    "10_mb_without_newline_later": lambda asked: _endless_line(asked, asked.opening),
    "done_missing": lambda asked: [streamed(asked.opening, asked.more, asked.finish, asked.usage)],
    "usage_missing": lambda asked: [without_usage(asked)],
    "usage_with_choices": lambda asked: [
        streamed(asked.opening, asked.more, chunk(finish_reason="stop", usage=_USAGE), DONE)
    ],
    "usage_twice": lambda asked: [usage_of(asked, {**_USAGE, "completion_tokens": 1}, _USAGE)],
    "usage_of_words": lambda asked: [usage_of(asked, {"prompt_tokens": "seven", "completion_tokens": "two"})],
    "usage_half_of_words": lambda asked: [usage_of(asked, {"prompt_tokens": 7, "completion_tokens": "two"})],
    "usage_negative": lambda asked: [usage_of(asked, {"prompt_tokens": -7, "completion_tokens": -2})],
    "usage_astronomic": lambda asked: [usage_of(asked, {"prompt_tokens": 2**60, "completion_tokens": 2**60})],
    "usage_of_fractions": lambda asked: [usage_of(asked, {"prompt_tokens": 7, "completion_tokens": 2.5})],
    "usage_of_parts_beyond_the_whole": lambda asked: [
        usage_of(asked, {**_USAGE, "prompt_tokens_details": {"cached_tokens": 9, "cache_write_tokens": -1}})
    ],
    "figures_of_no_engine": lambda asked: [_with_figures(asked, {"queue_s": -5, "prefill_s": 1e300})],
    "figures_of_words": lambda asked: [_with_figures(asked, {"queue_s": "\0", "verified": [{}]})],
    "finish_reason_of_objects": lambda asked: [
        streamed(asked.opening, asked.more, chunk(finish_reason={"type": "stop"}), asked.usage, DONE)
        if asked.stream
        else said(json.dumps({**GOOD_BODY, "choices": [{**_CHOICE, "finish_reason": ["stop"]}]}).encode())
    ],
    "error_in_200": lambda asked: [
        streamed(asked.error_event())
        if asked.stream
        else said(json.dumps(asked.error("overloaded_error", "Overloaded")).encode())
    ],
    "error_in_mid_stream": lambda asked: [streamed(asked.opening, asked.error_event())],
    "html_in_200": lambda _: [said(HTML, 200, "text/html")],
    "empty_200": lambda _: [said(b"")],
    "list_in_200": lambda _: [said(b"[]")],
    "two_bodies_in_one": lambda asked: [said(asked.raw + asked.raw)],
    "json_for_a_stream": lambda asked: [said(asked.raw)],
    "stream_for_json": lambda asked: [streamed(asked.events)],
    "invalid_utf8": lambda asked: [
        streamed(in_utf8("Hi").replace(b"Hi", b"\xff\xfe"), asked.finish, DONE)
        if asked.stream
        else said(asked.raw.replace("ü".encode(), b"\xff"))
    ],
    "nul_in_error": lambda asked: [refused(asked, 500, message="zero \0 byte")],
    "nul_in_answer": lambda asked: [
        streamed(chunk("a\0b"), chunk(finish_reason="st\0op"), usage_chunk(7, 2), DONE)
        if asked.stream
        else said(json.dumps({**asked.body, "model": "a\0b"}).encode())
    ],
    # Statuses.
    "429": lambda asked: [refused(asked, 429)],
    "429_retry_after_1": lambda asked: [refused(asked, 429, "Retry-After: 1")],
    "429_retry_after_an_hour": lambda asked: [refused(asked, 429, "Retry-After: 3600")],
    "429_retry_after_nonsense": lambda asked: [refused(asked, 429, "Retry-After: soon, -1e999")],
    "500": lambda asked: [refused(asked, 500)],
    "503_html": lambda _: [said(HTML * 20_000, 503, "text/html")],
    "529": lambda asked: [refused(asked, 529)],
    "400_in_own_words": lambda _: [said(b'{"detail": "too long"}', 400)],
    "429_html": lambda _: [said(HTML, 429, "text/html", "Retry-After: 1")],
    "521": lambda _: [said(HTML, 521, "text/html")],
    "400": lambda asked: [refused(asked, 400)],
    "401": lambda asked: [refused(asked, 401)],
    "204": lambda _: [b"HTTP/1.1 204 No Content\r\n\r\n"],
    "302": lambda _: [said(b"", 302, "text/html", "Location: http://169.254.169.254/latest/meta-data")],
    "999": lambda asked: [refused(asked, 999)],
    # HTTP.
    "not_http": lambda _: [b"SSH-2.0-OpenSSH_9.6\r\n", *NOTHING_MORE],
    "random_bytes": lambda _: [bytes(range(128, 256)) * 8, *NOTHING_MORE],
    "http_1_0_without_length": lambda asked: [
        b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + plain(asked),
        End.CLOSE,
    ],
    "http_1_0_cut": lambda asked: [
        b"HTTP/1.0 200 OK\r\n\r\n" + (asked.opening if asked.stream else asked.raw[:40]),
        End.CLOSE,
    ],
    "length_too_long": lambda asked: [
        said(plain(asked)).replace(b"Length: ", b"Length: 9"),
        End.CLOSE,
    ],
    "length_too_short": lambda asked: [_json_head(len(plain(asked)) - 9) + plain(asked)],
    "length_negative": lambda asked: [said(plain(asked)).replace(b"Length: ", b"Length: -")],
    "length_and_chunks": lambda asked: [
        said(plain(asked)).replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n", 1)
    ],
    "chunk_of_no_size": lambda asked: [*half_in_chunks(asked), b"zz\r\nwhat\r\n", *NOTHING_MORE],
    "chunk_cut": lambda asked: [*half_in_chunks(asked), b"fff\r\nwhat", End.CLOSE],
    "second_answer_behind": lambda asked: [whole(asked) + whole(asked)],
    "gzip": lambda asked: [packed(asked, gzip.compress(plain(asked)))],
    "gzip_damaged": lambda asked: [packed(asked, gzip.compress(plain(asked))[:20] + b"#" * 100)],
    "gzip_cut": lambda asked: [packed(asked, gzip.compress(plain(asked))[:-12])],
    "gzip_bomb": lambda asked: [packed(asked, _bomb())],
    "brotli": lambda asked: [
        packed(asked, b"\x0b\x02\x80" + plain(asked)).replace(b"Encoding: gzip", b"Encoding: br")
    ],
    "header_bomb": lambda asked: [whole(asked, lines=tuple(f"X-{n}: {'y' * 90}" for n in range(5_000)))],
    "header_of_1_mb": lambda asked: [whole(asked, lines=("X-Long: " + "y" * MB,))],
    "header_without_end": lambda _: [b"HTTP/1.1 200 OK\r\nX-Long: ", *[b"y" * 65_536] * 100, *NOTHING_MORE],
    "header_not_ascii": lambda asked: [whole(asked, lines=("X-Gr\xfc\xdfe: x", "X-Request-Id: \x80\xff"))],
    "continues_then_answers": lambda asked: [b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + whole(asked)],
    "continues_for_ever": lambda _: (
        [b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000 for _ in range(200)] + NOTHING_MORE
    ),
    "switches_protocols": lambda _: [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        *NOTHING_MORE,
    ],
}


def _inside_a_character(asked: Asked) -> list[Step]:
    if not asked.stream:
        return [*sent(asked, asked.raw[: asked.raw.index("ü".encode()) + 1]), 0.05, End.RESET]
    cut = asked.more.index("ü".encode()) + 1
    return [*sent(asked, asked.opening), framed(asked.more[:cut]), 0.05, End.RESET]


def _endless_line(asked: Asked, before: bytes) -> list[Step]:
    if not asked.stream:
        padded = {**asked.body, "padding": "x" * 10 * MB}
        return [said(json.dumps(padded).encode())]
    return [head() + framed(before), framed(b"data: {"), *[framed(b"x" * 65_536)] * 160, *NOTHING_MORE]


def half_in_chunks(asked: Asked) -> list[Step]:
    return [head() + framed(asked.opening if asked.stream else asked.raw[:40])]


def _with_figures(asked: Asked, figures: dict[str, Any]) -> bytes:
    """Such as engines of ours tell in `sparkgate`."""
    if not asked.stream:
        return said(json.dumps({**asked.body, "sparkgate": figures}).encode())
    told = chunk(choices=[], usage=_USAGE, sparkgate=figures)
    return streamed(asked.opening, asked.more, asked.finish, told, DONE)


def _bomb() -> bytes:
    """A hundred megabytes in a hundred kilobytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return b"".join(packer.compress(b"x" * MB) for _ in range(100)) + packer.flush()


async def play(line: Line, body: dict[str, Any]) -> None:
    api, _, name = str(body["model"]).partition("/")
    for step in MISBEHAVIOURS[name](Asked(api, bool(body.get("stream")))):  # type: ignore[arg-type]
        if isinstance(step, bytes):
            await line.send(step)
        elif step is End.RESET:
            line.reset()
        elif step is End.CLOSE:
            line.close()
        else:
            await asyncio.sleep(step)


def _tls(folder: Path, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context


async def serve(certificates: Path | None) -> None:
    async with AsyncExitStack() as stack:
        ports = {"plain": (await stack.enter_async_context(raw_upstream(play))).port}
        for name in CERTIFICATES if certificates else ():
            tls = _tls(certificates, name)  # type: ignore[arg-type]
            ports[name] = (await stack.enter_async_context(raw_upstream(play, tls))).port
        for name, talk in (("silent", _say_nothing), ("confused", _say_400)):
            server = await stack.enter_async_context(await asyncio.start_server(talk, "127.0.0.1", 0))
            ports[name] = server.sockets[0].getsockname()[1]
        ports["deaf"] = stack.enter_context(deaf_port())
        print(json.dumps(ports), flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def _say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(65_536):
        pass
    writer.close()


async def _say_400(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As web servers do that are spoken to in TLS and expect none."""
    await reader.read(65_536)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    writer.close()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
