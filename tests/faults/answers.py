"""What a sound upstream answers, in each of the three formats: what a hostile one starts from.

In: which API, and whether the call streams. Out: bytes, with the usage that `INPUT_TOKENS` and `OUTPUT_TOKENS` tell.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from tests.fakes import DONE, GOOD_BODY, ROLE, chunk, usage_chunk

Api = Literal["chat", "messages", "responses"]
TEXT = "Grüße"  # a character of two bytes in its midst
PIECES = ("Gr", "üße")
INPUT_TOKENS, OUTPUT_TOKENS = 7, 2


@dataclass(frozen=True)
class Asked:
    """A call as the upstream knows it."""

    api: Api
    stream: bool

    @property
    def body(self) -> dict[str, Any]:
        return _BODIES[self.api]

    @property
    def raw(self) -> bytes:
        """The whole answer, in UTF-8 rather than escaped."""
        return json.dumps(self.body, ensure_ascii=False).encode()

    @property
    def opening(self) -> bytes:
        """Events up to the first token."""
        return b"".join(_STREAMS[self.api][0])

    @property
    def more(self) -> bytes:
        """The rest of the text."""
        return b"".join(_STREAMS[self.api][1])

    @property
    def finish(self) -> bytes:
        """Why it ends; of chat without the usage."""
        return b"".join(_STREAMS[self.api][2])

    @property
    def usage(self) -> bytes:
        """Chat's event of its own for the usage; the others have none."""
        return b"".join(_STREAMS[self.api][3])

    @property
    def done(self) -> bytes:
        """The event that ends the stream."""
        return b"".join(_STREAMS[self.api][4])

    @property
    def events(self) -> bytes:
        return self.opening + self.more + self.finish + self.usage + self.done

    def error(self, kind: str, message: str) -> dict[str, Any]:
        """An error as this API writes it."""
        error = {"type": kind, "message": message}
        return (
            {"type": "error", "error": error}
            if self.api == "messages"
            else {"error": {**error, "code": kind}}
        )

    def error_event(self) -> bytes:
        value = self.error("overloaded_error", "Overloaded")
        if self.api == "responses":
            value = {"type": "error", "code": "overloaded_error", "message": "Overloaded", "param": None}
        return named(value) if self.api != "chat" else b"data: " + json.dumps(value).encode() + b"\n\n"


def named(value: dict[str, Any]) -> bytes:
    """An event of Messages or Responses."""
    return f"event: {value['type']}\ndata: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def in_utf8(content: str) -> bytes:
    """A chunk of chat completions whose text is not escaped."""
    return chunk("@").replace(b"@", content.encode())


_MESSAGE_USAGE = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS}
_MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "hostile"}
_RESPONSE_USAGE = {**_MESSAGE_USAGE, "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS}
_RESPONSE = {"id": "resp_1", "object": "response", "created_at": 1, "model": "hostile", "output": []}
_ITEM = {
    "id": "item_1",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": TEXT, "annotations": []}],
}
_COMPLETED = {**_RESPONSE, "status": "completed", "output": [_ITEM], "usage": _RESPONSE_USAGE}
_BODIES: dict[Api, dict[str, Any]] = {
    "chat": {
        **GOOD_BODY,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
    },
    "messages": {
        **_MESSAGE,
        "content": [{"type": "text", "text": TEXT}],
        "stop_reason": "end_turn",
        "usage": _MESSAGE_USAGE,
    },
    "responses": _COMPLETED,
}


def _text_delta(text: str) -> bytes:
    return named({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})


def _output_delta(text: str) -> bytes:
    at = {"item_id": "item_1", "output_index": 0, "content_index": 0}
    return named({"type": "response.output_text.delta", **at, "delta": text})


_Parts = tuple[list[bytes], list[bytes], list[bytes], list[bytes], list[bytes]]
_STREAMS: dict[Api, _Parts] = {
    "chat": (
        [ROLE, in_utf8(PIECES[0])],
        [in_utf8(PIECES[1])],
        [chunk(finish_reason="stop")],
        [usage_chunk(INPUT_TOKENS, OUTPUT_TOKENS)],
        [DONE],
    ),
    "messages": (
        [
            named(
                {
                    "type": "message_start",
                    "message": {
                        **_MESSAGE,
                        "content": [],
                        "stop_reason": None,
                        "usage": {"input_tokens": INPUT_TOKENS, "output_tokens": 0},
                    },
                }
            ),
            named({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
            _text_delta(PIECES[0]),
        ],
        [_text_delta(PIECES[1]), named({"type": "content_block_stop", "index": 0})],
        [
            named(
                {
                    "type": "message_delta",
                    "delta": {"stop_reason": "end_turn"},
                    "usage": {"output_tokens": OUTPUT_TOKENS},
                }
            )
        ],
        [],
        [named({"type": "message_stop"})],
    ),
    "responses": (
        [
            named({"type": "response.created", "response": {**_RESPONSE, "status": "in_progress"}}),
            named(
                {
                    "type": "response.output_item.added",
                    "output_index": 0,
                    "item": {**_ITEM, "status": "in_progress", "content": []},
                }
            ),
            _output_delta(PIECES[0]),
        ],
        [
            _output_delta(PIECES[1]),
            named({"type": "response.output_item.done", "output_index": 0, "item": _ITEM}),
        ],
        [],
        [],
        [named({"type": "response.completed", "response": _COMPLETED})],
    ),
}
