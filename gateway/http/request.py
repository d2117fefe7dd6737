"""A request of the data plane once it is whole, and the limits it has to keep to on its way."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one request."""

    body_bytes: int = 20 * 1024 * 1024
    head_bytes: int = 64 * 1024
    head_s: float = 10.0  # from its first byte to the end of its headers
    body_idle_s: float = 30.0  # between two pieces of its body


@dataclass(slots=True)
class Request:
    """A whole request. `headers`: names in lower case; of a repeated one the last value."""

    path: str
    query: bytes
    headers: dict[str, str]
    body: bytes
    arrived: float  # when the headers were complete, on the monotonic clock
