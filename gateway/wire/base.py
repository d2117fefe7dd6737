"""What dispatch asks of a wire format, and of a translation between two of them.

A format is a module (`wire.chat`, `wire.messages`, `wire.responses`) that reads what a target answers. A translation
belongs to one call: it turns the answer of a target that speaks another format into the caller's.
"""

from __future__ import annotations

from typing import Any, Protocol

from gateway.ledger.records import Usage
from gateway.wire.chat import Piece


class Wire(Protocol):
    """How a target's answers read. Implemented by modules."""

    def plain_bytes(self, data: bytes) -> int:
        """How many bytes from the start may pass unread after the first token."""
        ...

    def read_event(self, event: bytes) -> Piece: ...

    def usage_of(self, value: dict[str, Any]) -> Usage | None: ...

    def finish_reason_of(self, body: dict[str, Any]) -> str | None: ...


class StreamTranslator(Protocol):
    """One stream on its way into the caller's format; every method gives the events to send now."""

    def feed(self, value: dict[str, Any]) -> list[bytes]: ...

    def finish(self) -> list[bytes]: ...

    def fail(self, status: int, message: str) -> list[bytes]: ...


class Translation(Protocol):
    """How the answer to one translated call is given back."""

    def whole(self, value: dict[str, Any]) -> dict[str, Any]: ...

    def stream(self) -> StreamTranslator: ...
