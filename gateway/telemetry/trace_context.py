"""W3C trace context: which trace a call belongs to, and what its targets are told of it.

A call that brings a `traceparent` stays in its caller's trace; any other begins one whose id is the exchange's own,
so that `req_<id>` finds the trace. Spans are called by the random half of the UUIDs of exchanges and attempts: nobody
has to write a span's id down. Pure, and imports nothing of OpenTelemetry.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

TRACE_HEADERS = TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
SAMPLED = 1
_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_LOW_64, _RANDOM = (1 << 64) - 1, 1 << 56


@dataclass(frozen=True, slots=True)
class Trace:
    """`parent_id` is the caller's span; None where the trace begins here."""

    trace_id: int
    parent_id: int | None
    flags: int
    state: str | None = None

    @property
    def is_sampled(self) -> bool:
        return bool(self.flags & SAMPLED)

    def headers(self, attempt: UUID) -> dict[str, str]:
        """For the target of this attempt, whose span is the parent of all that the target does."""
        parent = f"00-{self.trace_id:032x}-{span_id(attempt):016x}-{self.flags:02x}"
        return {TRACEPARENT: parent, TRACESTATE: self.state} if self.state else {TRACEPARENT: parent}

    def recorded(self) -> dict[str, Any]:
        """What to add to the exchange's record, whose ids say all of a trace that begins here."""
        if self.parent_id is None:
            return {}
        trace_id, parent = f"{self.trace_id:032x}", f"{self.parent_id:016x}"
        return {"trace": {"id": trace_id, "parent": parent, "flags": self.flags}}


def trace_of(headers: Mapping[str, str], exchange: UUID, sample: float) -> Trace:
    """The trace of a call with these headers (names in lower case); a malformed `traceparent` is none."""
    parent = headers.get(TRACEPARENT)
    found = _parsed(parent) if parent else None
    if found is None:
        return begun(exchange, sample)
    trace_id, parent_id, flags = found
    return Trace(trace_id, parent_id, flags, headers.get(TRACESTATE))


def recalled(record: Mapping[str, Any], exchange: UUID, sample: float) -> Trace:
    """From the record of this exchange, or of its shadow."""
    if "trace" not in record:
        return begun(exchange, sample)
    trace = record["trace"]
    return Trace(int(trace["id"], 16), int(trace["parent"], 16), trace["flags"])


def begun(exchange: UUID, sample: float) -> Trace:
    """A trace of our own, sampled by the 56 bits that the standard keeps random."""
    trace_id = exchange.int
    return Trace(trace_id, None, SAMPLED if trace_id % _RANDOM < sample * _RANDOM else 0)


def span_id(key: UUID) -> int:
    """Never 0: two bits of it say which kind of UUID it is."""
    return key.int & _LOW_64


def _parsed(header: str) -> tuple[int, int, int] | None:
    match = _HEADER.fullmatch(header.strip())
    if match is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(parent_id, 16):
        return None
    return int(trace_id, 16), int(parent_id, 16), int(flags, 16)
