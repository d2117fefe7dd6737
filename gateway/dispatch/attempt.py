"""One upstream try up to the point where it either failed, with nothing shown to the client, or may be relayed.

A streamed try waits for the first token with start-up frames held back (at most 64 events or 256 KiB); a
non-streamed one reads the whole body. In: upstream, call, deadlines. Out: `Body`, `Opened` or `Failure`, values
all three; only the client's own departure is an exception (cancellation).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from gateway.dispatch.deadline import Watch
from gateway.ledger.records import Usage
from gateway.upstreams.base import CutOff, Reply, Unreachable, Upstream, UpstreamCall
from gateway.wire.base import Wire
from gateway.wire.chat import Piece
from gateway.wire.fields import answered
from gateway.wire.sse import MAX_EVENT_BYTES, EventTooLarge, event_end
from router.outcome import Result

MAX_HELD_EVENTS = 64
MAX_HELD_BYTES = 256 * 1024
SERVER_ERROR = 502
_CODE = re.compile(r"[\w.:/-]{1,64}", re.ASCII)


@dataclass(slots=True)
class Deadlines:
    """Points on the event loop's clock."""

    first_token: float
    total: float


@dataclass(frozen=True, slots=True)
class Failure:
    """A try that came to nothing. `body` is the upstream's own error body, if it sent one.

    `should_retry` is the upstream's own word (`x-should-retry`).
    """

    result: Result
    message: str
    http_status: int | None = None
    code: str | None = None
    body: bytes | None = None
    retry_after_s: float | None = None
    should_retry: bool | None = None
    upstream_request_id: str | None = None
    usage: Usage | None = None  # what the target told before it failed


@dataclass(slots=True)
class Body:
    """A whole non-streamed answer."""

    raw: bytes
    value: dict[str, Any]
    upstream_request_id: str | None


@dataclass(slots=True)
class Opened:
    """A stream whose first token is here. `held` are the events up to and including it, `rest` what came behind."""

    reply: Reply
    chunks: AsyncIterator[bytes]
    hide: Callable[[bytes], bytes]  # of the upstream
    held: list[tuple[bytes, Piece]] = field(default_factory=list)
    held_bytes: int = 0
    rest: bytes = b""
    usage: Usage | None = None  # told so far
    is_ready: bool = False  # there is something to show, or no more may be held
    upstream_request_id: str | None = None

    def hold(self, event: bytes, piece: Piece) -> None:
        self.held.append((event, piece))
        self.held_bytes += len(event)
        if piece.usage is not None:
            self.usage = piece.usage if self.usage is None else self.usage.merged(piece.usage)
        is_full = len(self.held) >= MAX_HELD_EVENTS or self.held_bytes >= MAX_HELD_BYTES
        self.is_ready = piece.has_token or piece.is_done or bool(piece.finish_reason) or is_full


async def fetch(upstream: Upstream, call: UpstreamCall, deadlines: Deadlines) -> Body | Failure:
    """A non-streamed try."""
    reply: Reply | None = None
    try:
        with Watch(deadlines.total):
            reply = await upstream.send(call)
            raw = await reply.read()
    except TimeoutError:
        return Failure("timeout_total", "no complete answer within the policy's total_s")
    except Unreachable as error:
        return Failure("connect_error", str(error))
    except CutOff as error:
        return Failure("cut_off", str(error))
    finally:
        if reply is not None:
            reply.close()
    if reply.status != 200:
        return _http_failure(reply, upstream.hide(raw))
    value = answered(raw)
    if value is None:
        return Failure("bad_response", "the answer is not a JSON object", http_status=200)
    if value.get("error"):
        return _told_failure(answered(upstream.hide(raw)) or {})
    return Body(raw, value, _request_id(reply))


async def open_stream(
    upstream: Upstream, call: UpstreamCall, wire: Wire, deadlines: Deadlines
) -> Opened | Failure:
    """A streamed try, up to its first token. The reply of a failure is closed; an opened one is the caller's."""
    reply: Reply | None = None
    opened: Opened | None = None
    failure: Failure | None = None
    try:
        with Watch(min(deadlines.first_token, deadlines.total)):
            reply = await upstream.send(call)
            if reply.status != 200:
                failure = _http_failure(reply, upstream.hide(await reply.read()))
            else:
                opened = Opened(reply, reply.chunks(), upstream.hide, upstream_request_id=_request_id(reply))
                failure = await _await_token(opened, wire)
                if failure is None:
                    reply = None
                    return opened
    except TimeoutError:
        if deadlines.first_token <= deadlines.total:
            failure = Failure("timeout_first_token", "no first token within the policy's first_token_s")
        else:
            failure = Failure("timeout_total", "no first token within the policy's total_s")
    except Unreachable as error:
        failure = Failure("connect_error", str(error))
    except CutOff as error:
        failure = Failure("cut_off", str(error))
    except EventTooLarge as error:
        failure = Failure("bad_response", str(error))
    finally:
        if reply is not None:
            reply.close()
    return replace(failure, usage=opened.usage) if opened and opened.usage else failure


async def _await_token(opened: Opened, wire: Wire) -> Failure | None:
    """Reads events until one of them may be shown (None); what came with it stays unread in `rest`."""
    data = b""
    async for chunk in opened.chunks:
        seen = max(0, len(data) - 3)  # an event's end may be cut in two
        data += chunk
        while end := event_end(data, seen):
            event, data, seen = data[:end], data[end:], 0
            failure = _hold(opened, event, wire)
            if failure is not None or opened.is_ready:
                opened.rest = data
                return failure
        if len(data) > MAX_EVENT_BYTES:
            raise EventTooLarge(f"an event of more than {MAX_EVENT_BYTES} bytes")
    if data.strip():  # it lacks its blank line, but it is there
        failure = _hold(opened, data + b"\n\n", wire)
        if failure is not None or opened.is_ready:
            return failure
    return _early_end(opened, data)


def _early_end(opened: Opened, rest: bytes) -> Failure:
    """It may never have been a stream: a web page of something in between, or an error of its own."""
    kind = opened.reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("", "text/event-stream") or any(piece.value for _, piece in opened.held):
        return Failure("cut_off", "the stream ended before its first token", http_status=200)
    value = answered(opened.hide(rest))
    if value is not None and value.get("error"):
        return _told_failure(value)
    return Failure("bad_response", f"it answered with {kind} where a stream was asked for", http_status=200)


def _hold(opened: Opened, event: bytes, wire: Wire) -> Failure | None:
    """Keeps one more event back."""
    piece = wire.read_event(event)
    if piece.is_error:
        return _told_failure(wire.read_event(opened.hide(event)).value or {})
    if piece.is_malformed:
        return Failure("bad_response", "a stream event is not JSON", http_status=200)
    opened.hold(event, piece)
    return None


def _request_id(reply: Reply) -> str | None:
    """By OpenAI's name, or by Anthropic's."""
    return reply.headers.get("x-request-id") or reply.headers.get("request-id")


def _http_failure(reply: Reply, raw: bytes) -> Failure:
    value = answered(raw) or {}
    error = _error_of(value)
    code = error.get("code") or error.get("type")
    said = reply.headers.get("x-should-retry")
    return Failure(
        "http_error",
        str(error.get("message") or "no reason given"),
        http_status=reply.status,
        code=_word(code),
        body=raw if error and error is value.get("error") else None,
        retry_after_s=_retry_after_s(reply.headers),
        should_retry={"true": True, "false": False}.get(said.lower()) if said else None,
        upstream_request_id=_request_id(reply),
    )


def _told_failure(value: dict[str, Any]) -> Failure:
    """An overload hidden behind status 200, in a stream or a body, is a failure like any other."""
    error = _error_of(value)
    code = error.get("code") or error.get("type")
    return Failure(
        "http_error",
        str(error.get("message") or "no reason given"),
        http_status=SERVER_ERROR,
        code=_word(code),
        body=orjson.dumps(value),
    )


def _error_of(value: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's and Anthropic's object; of servers that write errors otherwise, the message alone."""
    error = value.get("error")
    if isinstance(error, dict):
        return error
    told = error or value.get("message") or value.get("detail")
    return {"message": str(told)} if told else {}


def _word(code: Any) -> str | None:
    """A code is one word; whatever else stands there is none, and may be a text that is not ours to keep."""
    said = str(code) if code else ""
    return said if _CODE.fullmatch(said) else None


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """`retry-after-ms`, else `Retry-After`, in seconds or as a date."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        said = headers.get(name)
        if said is None:
            continue
        try:
            seconds = float(said) * scale
        except ValueError:
            seconds = _seconds_until(said)
        if 0 <= seconds < float("inf"):
            return seconds
    return None


def _seconds_until(http_date: str) -> float:
    """NaN for what is no date."""
    try:
        at = parsedate_to_datetime(http_date)
    except ValueError:
        return float("nan")
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
