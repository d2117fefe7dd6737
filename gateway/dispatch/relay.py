"""From the first token to the end of a stream: every event as it came, then exactly one end.

In: an opened stream, the client, the deadlines. Pieces that hold nothing to note pass unread. The only edit of a
native stream is dropping usage that the caller did not ask for; a translated one is rewritten event by event. The
terminal event is held until the record is in the spool. What goes wrong now is an error event: the model is never
switched in mid-answer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from gateway.dispatch.attempt import Opened
from gateway.dispatch.call import Call, Client, Form
from gateway.dispatch.deadline import Watch
from gateway.dispatch.quotes import without_quotes
from gateway.dispatch.tally import Tally
from gateway.ledger.records import Attempt
from gateway.upstreams.base import CutOff
from gateway.wire.base import StreamTranslator
from gateway.wire.chat import Piece, without_asked_usage, without_usage_nulls
from gateway.wire.errors import GatewayError, UpstreamFailed, UpstreamTimeout
from gateway.wire.sse import EventSplitter, EventTooLarge
from router.outcome import Result

CONTENT_TYPE = "text/event-stream; charset=utf-8"
LONG_EVENT_BYTES = 32 * 1024  # an unfinished event of more is not looked through anew with each piece of it
HEADERS = {
    "Content-Type": CONTENT_TYPE,
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # proxies in front must not hold a stream back
}


class _ErrorEvent(Exception):
    """The upstream itself reported an error in mid-stream; its event is passed on as the end."""

    def __init__(self, event: bytes, piece: Piece) -> None:
        super().__init__(str((piece.value or {}).get("error")))
        self.event = event


@dataclass(slots=True)
class Relay:
    """One stream on its way to its client. `total` is a point on the monotonic clock."""

    call: Call
    form: Form
    opened: Opened
    client: Client
    tally: Tally
    attempt: Attempt
    idle_s: float
    total: float
    kept: list[bytes] | None = None  # what the client got, for a cache
    _splitter: EventSplitter = field(default_factory=EventSplitter)
    _translator: StreamTranslator | None = None
    _end: bytes | None = None  # the terminal event, once it is here
    _said: _ErrorEvent | None = None  # an error of the upstream's own

    async def run(self) -> bool:
        """Sends the whole stream and closes the exchange; whether it came to its proper end."""
        if self.form.translation is not None:
            self._translator = self.form.translation.stream()
        result: Result = "ok"
        error: GatewayError | None = None
        event: bytes | None = None
        watch = Watch(self.total)
        try:
            with watch:
                event = await self._relay(watch)
        except TimeoutError:
            missed = "idle" if watch.until < self.total else "total"
            result = "timeout_idle" if missed == "idle" else "timeout_total"
            why = f"nothing came within the policy's {missed}_s"
            error = UpstreamTimeout(self._stopped(why), code=result)
        except (CutOff, EventTooLarge) as broken:
            result, error = "cut_off", UpstreamFailed(self._stopped(str(broken)), code="cut_off")
        except _ErrorEvent as said:
            result, error = "cut_off", UpstreamFailed(self._stopped(str(said)), code="upstream_error")
            event = None if self._translator else said.event
        finally:
            self.opened.reply.close()
        last = self._say(error) if event is None and error else event or b""
        if self.kept is not None:
            self.kept.append(last)
            self.tally.answer = self.kept
        code = error.code if error else None
        message = without_quotes(error.message, self.form.body) if error else None
        self.tally.end(self.attempt, result, code, message)
        self.tally.close(200, code)
        await self.client.end(last)
        return result == "ok"

    async def _relay(self, watch: Watch) -> bytes:
        """Relays up to the terminal event, which is returned unsent. Raises `CutOff`, `EventTooLarge`."""
        ready = b"".join(map(self._take_read, *zip(*self.opened.held, strict=True)))
        if self.opened.rest:
            ready += self._take(self.opened.rest)
        if not self.client.is_started:
            await self.client.start(200, {**HEADERS, **self.tally.headers()})
        await self._send(ready)
        watch.until = min(time.monotonic() + self.idle_s, self.total)
        if self._end is None:
            async for chunk in self.opened.chunks:
                if ready := self._take(chunk):
                    watch.until = self.total  # a slow client is no fault of the target
                    await self._send(ready)
                if self._end is not None:
                    break
                watch.until = min(time.monotonic() + self.idle_s, self.total)
        return self._last()

    def _last(self) -> bytes:
        """The end of the stream. Some servers send no terminal event: nothing is missing after a finish reason."""
        tail, rest = b"", self._splitter.rest
        if self._end is None and rest.strip():
            event = rest + b"\n\n"  # without its blank line no client would see it
            piece = self.form.wire.read_event(event)
            tail = b"" if piece.is_malformed else self._take_read(event, piece)
        if self._said is not None:
            raise self._said
        if self._end is None and self.tally.exchange.finish_reason is None:
            raise CutOff("it ended without a finish_reason")
        return tail + (b"".join(self._translator.finish()) if self._translator else self._end or b"")

    async def _send(self, data: bytes) -> None:
        if data:
            if self.kept is not None:
                self.kept.append(data)
            await self.client.write(data)

    def _take(self, chunk: bytes) -> bytes:
        """What of a piece of the stream goes to the client now."""
        is_long = len(self._splitter.rest) > LONG_EVENT_BYTES
        if self._translator is not None or self._end is not None or is_long:
            return b"".join([self._take_event(event) for event in self._splitter.feed(chunk)])
        data = self._splitter.take_rest() + chunk
        end = data.rfind(b"\n\n", 0, self.form.wire.plain_bytes(data))
        unread = data[: end + 2] if end >= 0 else b""
        passed: bytes | None = unread
        if not self.call.wants_usage and b'"usage"' in unread:
            passed = without_usage_nulls(unread)
        if passed is None:
            passed = unread = b""
        self.attempt.seen_tokens += unread.count(b"\n\n")
        read = [self._take_event(event) for event in self._splitter.feed(data[len(unread) :])]
        return b"".join([passed, *read])

    def _take_event(self, event: bytes) -> bytes:
        return self._take_read(event, self.form.wire.read_event(event))

    def _take_read(self, event: bytes, piece: Piece) -> bytes:
        if self._end is not None:
            return b""  # whatever follows the terminal event is nothing to the client
        self.tally.note(self.attempt, piece)
        if piece.is_error:
            event = self.opened.hide(event)
            self._said = _ErrorEvent(event, self.form.wire.read_event(event))
        if piece.is_error or piece.is_done:
            self._end = event
        if piece.is_error:
            return b""
        if self._translator is not None:
            return b"".join(self._translator.feed(piece.value)) if piece.value is not None else b""
        if piece.is_done:
            return b""
        return event if self.call.wants_usage else without_asked_usage(event, piece) or b""

    def _say(self, error: GatewayError) -> bytes:
        if self._translator is not None:
            return b"".join(self._translator.fail(error.status, error.message))
        return self.call.errors.event(error)

    def _stopped(self, why: str) -> str:
        return f"target '{self.attempt.target}' stopped in mid-answer: {why}"
