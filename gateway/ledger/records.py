"""`Exchange` and `Attempt`: the ledger of one client call while it runs, and the spool line it becomes.

One owner (dispatch) fills them; `Exchange.record()` gives the JSON value that spool and drain carry, whose
keys are the columns of `tables.exchanges` and `tables.attempts`. Knows nothing of files or databases.
"""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from router.outcome import Result


def uuid7(unix_s: float | None = None) -> uuid.UUID:
    """A UUIDv7 (RFC 9562 §5.7): 48 bits of Unix milliseconds, then 74 random bits."""
    ms = int((time.time() if unix_s is None else unix_s) * 1000)
    noise = int.from_bytes(os.urandom(10), "big")
    value = (ms & ((1 << 48) - 1)) << 80 | 0x7 << 76 | (noise >> 68 & 0xFFF) << 64 | 0b10 << 62
    return uuid.UUID(int=value | noise & ((1 << 62) - 1))


def utc_iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat()


@dataclass(slots=True)
class Usage:
    """Tokens of one attempt; cached and cache-write tokens are parts of input, reasoning a part of output."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(slots=True)
class Attempt:
    """One upstream try. Times are float seconds from the try's own start."""

    target: str
    model: str
    started_at: float  # Unix seconds
    id: uuid.UUID = field(default_factory=uuid7)
    result: Result = "ok"
    http_status: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    ttft_s: float | None = None
    total_s: float = 0.0
    usage: Usage | None = None
    cost_nusd: int | None = None
    price_id: str | None = None
    upstream_request_id: str | None = None
    engine: dict[str, Any] | None = None


@dataclass(slots=True)
class Exchange:
    """One client call from parse to close."""

    caller: str
    endpoint: str
    stream: bool
    started_at: float  # Unix seconds
    id: uuid.UUID = field(default_factory=uuid7)
    model_asked: str | None = None
    task_id: str | None = None
    workflow: str | None = None
    shape: str | None = None
    shape_source: str | None = None
    policy_hash: str | None = None
    decision: dict[str, Any] | None = None
    status: int = 499
    ttft_s: float | None = None
    total_s: float = 0.0
    overhead_s: float | None = None
    error_code: str | None = None
    timed_out: Literal["first_token", "idle", "total"] | None = None
    finish_reason: str | None = None
    response_model: str | None = None
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def request_id(self) -> str:
        return f"req_{self.id.hex}"

    def record(self) -> dict[str, Any]:
        """The spool line: {"kind": "exchange", "exchange": {…columns}, "attempts": [{…columns}]}."""
        last = self.attempts[-1] if self.attempts else None
        usage = last.usage if last else None
        row = {name: getattr(self, name) for name in _EXCHANGE_PLAIN}
        row |= _usage_columns(usage) | {
            "id": str(self.id),
            "started_at": utc_iso(self.started_at),
            "target": last.target if last else None,
            "model": last.model if last else None,
            "attempts": len(self.attempts),
            "tokens_per_s": tokens_per_s(usage, self.ttft_s, self.total_s),
            "cost_usd": usd(self._cost_nusd()),
        }
        return {
            "kind": "exchange",
            "exchange": row,
            "attempts": [_attempt_row(a, self.id, i) for i, a in enumerate(self.attempts)],
        }

    def _cost_nusd(self) -> int | None:
        """Sum over attempts; unknown as soon as one of them is."""
        costs = [attempt.cost_nusd for attempt in self.attempts]
        return sum(cost for cost in costs if cost is not None) if None not in costs else None


_EXCHANGE_PLAIN = (
    "caller",
    "endpoint",
    "model_asked",
    "task_id",
    "workflow",
    "shape",
    "shape_source",
    "policy_hash",
    "decision",
    "status",
    "stream",
    "ttft_s",
    "total_s",
    "overhead_s",
    "error_code",
    "timed_out",
    "finish_reason",
    "response_model",
)


def _attempt_row(attempt: Attempt, exchange_id: uuid.UUID, ordinal: int) -> dict[str, Any]:
    row = asdict(attempt)
    del row["usage"], row["cost_nusd"]
    return (
        row
        | _usage_columns(attempt.usage)
        | {
            "id": str(attempt.id),
            "exchange_id": str(exchange_id),
            "ordinal": ordinal,
            "started_at": utc_iso(attempt.started_at),
            "cost_usd": usd(attempt.cost_nusd),
        }
    )


def _usage_columns(usage: Usage | None) -> dict[str, int | None]:
    if usage is None:
        return dict.fromkeys(Usage.__dataclass_fields__)
    return asdict(usage)


def usd(nusd: int | None) -> str | None:
    """Nano-dollars as an exact decimal string of dollars: 1_500 → "0.000001500"."""
    if nusd is None:
        return None
    sign, whole = ("-" if nusd < 0 else ""), abs(nusd)
    return f"{sign}{whole // 10**9}.{whole % 10**9:09d}"


def tokens_per_s(usage: Usage | None, ttft_s: float | None, total_s: float) -> float | None:
    """Output tokens after the first ÷ time after the first; None for calls that did not stream two tokens."""
    if usage is None or ttft_s is None or usage.output_tokens < 2 or total_s <= ttft_s:
        return None
    return (usage.output_tokens - 1) / (total_s - ttft_s)


def outcome_record(
    caller: str, task_id: str, status: str, score: float | None, workflow: str | None
) -> dict[str, Any]:
    """The spool line of a task's outcome: {"kind": "outcome", "outcome": {column: value}}."""
    now = time.time()
    row = {
        "id": str(uuid7(now)),
        "caller": caller,
        "task_id": task_id,
        "reported_at": utc_iso(now),
        "status": status,
        "score": score,
        "workflow": workflow,
    }
    return {"kind": "outcome", "outcome": row}
