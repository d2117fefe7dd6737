"""From the first token to the end of a stream: every event as it came, then exactly one end.

In: an opened stream, the client, the deadlines. The only edit is dropping usage that the caller did not ask for.
The terminal event is held until the record is in the spool. What goes wrong now is an error event: the model is
never switched in mid-answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from gateway.dispatch.attempt import Opened
from gateway.dispatch.call import Client
from gateway.dispatch.tally import Tally
from gateway.upstreams.base import CutOff
from gateway.wire.chat import Piece, read_event, without_asked_usage
from gateway.wire.errors import UpstreamFailed, UpstreamTimeout, error_event
from gateway.wire.sse import EventTooLarge
from router.outcome import Result

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # proxies in front must not hold a stream back
}


async def relay(
    opened: Opened, client: Client, tally: Tally, *, wants_usage: bool, idle_s: float, total: float
) -> None:
    """Sends the whole stream and closes the exchange. `total` is a point on the monotonic clock."""
    tally.attempt.http_status, tally.attempt.upstream_request_id = 200, opened.upstream_request_id
    result: Result = "ok"
    code: str | None = None
    message: str | None = None
    try:
        await client.start(200, {**HEADERS, **tally.headers()})
        last = await _relay_events(opened, client, tally, wants_usage, idle_s, total)
    except UpstreamTimeout as error:
        code, message, last = error.code, error.message, error_event(error.value())
        result = "timeout_idle" if code == "timeout_idle" else "timeout_total"
    except UpstreamFailed as error:
        result, code, message, last = "cut_off", error.code, error.message, error_event(error.value())
    except _ErrorEvent as said:
        result, code, message, last = "cut_off", "upstream_error", str(said), said.event
    finally:
        opened.reply.close()
    tally.end(result, code, message)
    tally.close(200, code)
    await client.end(last)


class _ErrorEvent(Exception):
    """The upstream itself reported an error in mid-stream; its event is passed on as the end."""

    def __init__(self, event: bytes, piece: Piece) -> None:
        super().__init__(str((piece.value or {}).get("error")))
        self.event = event


async def _relay_events(
    opened: Opened, client: Client, tally: Tally, wants_usage: bool, idle_s: float, total: float
) -> bytes:
    """Relays up to the terminal event, which is returned unsent. Raises `UpstreamTimeout`, `UpstreamFailed`."""
    target = tally.attempt.target
    async for event, piece in _pieces(opened, target, idle_s, total):
        tally.note(piece)
        if piece.is_done:
            return event
        if piece.is_error:
            raise _ErrorEvent(event, piece)
        kept = event if wants_usage else without_asked_usage(event, piece)
        if kept is not None:
            await client.write(kept)
    if tally.exchange.finish_reason is None:
        raise UpstreamFailed(_stopped(target, "it ended without a finish_reason"), code="cut_off")
    return b""  # some servers send no [DONE]; nothing is missing


async def _pieces(
    opened: Opened, target: str, idle_s: float, total: float
) -> AsyncIterator[tuple[bytes, Piece]]:
    """The held-back events, then live ones as they come."""
    for held in opened.held:
        yield held
    while True:
        idle = time.monotonic() + idle_s
        try:
            async with asyncio.timeout_at(min(idle, total)):
                event = await anext(opened.events)
        except StopAsyncIteration:
            return
        except TimeoutError:
            missed = "idle" if idle <= total else "total"
            message = _stopped(target, f"nothing came within the policy's {missed}_s")
            raise UpstreamTimeout(message, code=f"timeout_{missed}") from None
        except (CutOff, EventTooLarge) as error:
            raise UpstreamFailed(_stopped(target, str(error)), code="cut_off") from error
        yield event, read_event(event)


def _stopped(target: str, why: str) -> str:
    return f"target '{target}' stopped in mid-answer: {why}"
