"""`Exchange` and `Attempt`: the ledger of one client call while it runs, and the spool line it becomes.

One owner (dispatch) fills them; `Exchange.record()` gives the JSON value that spool and drain carry, whose
keys are the columns of `tables.exchanges` and `tables.attempts`. Knows nothing of files or databases.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from operator import attrgetter
from random import Random
from typing import Any, Literal

import orjson

from gateway.telemetry.trace_context import Trace
from router.decision import Candidate, Decision
from router.outcome import Result

_noise = Random().getrandbits  # seeded by the system; ids must be unique, they are no secrets
_DECISION = tuple(Decision.__dataclass_fields__)
_decision_values = attrgetter(*_DECISION)
SHADOW = "shadow"  # the role of an attempt whose answer nobody gets: no part of its exchange's cost or tokens
_48, _62 = (1 << 48) - 1, (1 << 62) - 1


def uuid7(unix_s: float | None = None) -> uuid.UUID:
    """A UUIDv7 (RFC 9562 §5.7): 48 bits of Unix milliseconds, then 74 random bits."""
    ms = int((time.time() if unix_s is None else unix_s) * 1000)
    noise = _noise(74)
    return uuid.UUID(int=(ms & _48) << 80 | 0x7 << 76 | noise >> 62 << 64 | 0b10 << 62 | noise & _62)


def request_id(exchange_id: str) -> str:
    """As the caller gets it, and the name of the task that a call begins which names none."""
    return f"req_{exchange_id.replace('-', '')}"


def utc(unix_s: float) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)


@dataclass(slots=True)
class Usage:
    """Tokens of one attempt; cached and cache-write tokens are parts of input, reasoning a part of output.

    `apart`: what else may have a price of its own, above 0: cache_write_1h_tokens, audio_input_tokens,
    audio_output_tokens, image_input_tokens and image_output_tokens, parts of the others, and web_searches.
    """

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    apart: dict[str, int] | None = None

    def merged(self, later: Usage) -> Usage:
        """What a stream told piece by piece: counts only grow."""
        return Usage(
            max(self.input_tokens, later.input_tokens),
            max(self.output_tokens, later.output_tokens),
            max(self.cached_tokens, later.cached_tokens),
            max(self.cache_write_tokens, later.cache_write_tokens),
            max(self.reasoning_tokens, later.reasoning_tokens),
            _merged(self.apart, later.apart),
        )


def _merged(earlier: dict[str, int] | None, later: dict[str, int] | None) -> dict[str, int] | None:
    if earlier is None or later is None:
        return earlier or later
    return {name: max(earlier.get(name, 0), later.get(name, 0)) for name in earlier | later}


@dataclass(slots=True, eq=False)
class Attempt:
    """One upstream try. Times are float seconds from the try's own start."""

    target: str
    model: str
    started_at: float  # Unix seconds
    begun: float = 0.0  # the same moment on the monotonic clock; not a column
    is_sent: bool = False  # the target may have begun to work on it; not a column
    seen_tokens: int = 0  # stream events that carried some of the answer; not a column
    id: uuid.UUID = field(default_factory=uuid7)
    result: Result = "ok"
    http_status: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    ttft_s: float | None = None
    total_s: float = 0.0
    usage: Usage | None = None
    is_estimated: bool = False  # the usage is our count, since the stream broke off before it was told
    cost_nusd: int | None = None
    price_id: str | None = None
    service_tier: str | None = None  # words of the answer that its price depends on; None = it names none
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
    decision: Decision | dict[str, Any] | None = None  # the router's, or its JSON
    status: int = 499
    ttft_s: float | None = None
    total_s: float = 0.0
    overhead_s: float | None = None
    error_code: str | None = None
    timed_out: Literal["first_token", "idle", "total"] | None = None
    finish_reason: str | None = None
    response_model: str | None = None
    cache: Literal["hit", "joined"] | None = None  # answered without an attempt of its own
    saved_nusd: int | None = None  # what the cached answer had cost
    attempts: list[Attempt] = field(default_factory=list)
    answered: Attempt | None = None  # the one whose answer the client got
    trace: Trace | None = None  # where telemetry is on; not a column
    verdict: Literal["completed", "failed"] | None = None  # None = its task goes on
    open_for_s: float | None = None  # then such a task is abandoned; not a column
    thread: dict[str, Any] | None = None  # what it may go on from (see `dispatch.threads`); not a column

    @property
    def request_id(self) -> str:
        return f"req_{self.id.hex}"

    @property
    def last(self) -> Attempt | None:
        """The attempt that answered, else the last one made."""
        return self.answered or (self.attempts[-1] if self.attempts else None)

    def record(self) -> dict[str, Any]:
        """The spool line: {"kind": "exchange", "exchange": {…columns}, "attempts": [{…columns}]}; ids are UUIDs and
        the decision's candidates JSON already, for the encoder to write."""
        last = self.last
        usage = last.usage if last else None
        row = {
            "id": self.id,
            "started_at": utc(self.started_at),
            "caller": self.caller,
            "endpoint": self.endpoint,
            "model_asked": self.model_asked,
            "task_id": self.task_id,
            "workflow": self.workflow,
            "shape": self.shape,
            "shape_source": self.shape_source,
            "policy_hash": self.policy_hash,
            "decision": _decision_row(self.decision)
            if isinstance(self.decision, Decision)
            else self.decision,
            "target": last.target if last else None,
            "model": last.model if last else None,
            "status": self.status,
            "stream": self.stream,
            "attempts": len(self.attempts),
            "ttft_s": self.ttft_s,
            "total_s": self.total_s,
            "tokens_per_s": tokens_per_s(usage, self.ttft_s, self.total_s),
            "overhead_s": self.overhead_s,
            "cost_usd": usd(self.cost_nusd()),
            "error_code": self.error_code,
            "timed_out": self.timed_out,
            "finish_reason": self.finish_reason,
            "response_model": self.response_model,
            "cache": self.cache,
            "saved_usd": usd(self.saved_nusd),
            "verdict": self.verdict,
        }
        row.update(_usage_columns(usage))
        attempts = [_attempt_row(attempt, self.id, i) for i, attempt in enumerate(self.attempts)]
        record: dict[str, Any] = {"kind": "exchange", "exchange": row, "attempts": attempts}
        if self.open_for_s is not None:
            record["open_for_s"] = self.open_for_s
        if self.thread is not None:
            record["thread"] = self.thread
        return record if self.trace is None else record | self.trace.recorded()

    def cost_nusd(self) -> int | None:
        """Sum over attempts; unknown as soon as one of them is."""
        total = 0
        for attempt in self.attempts:
            if attempt.cost_nusd is None:
                return None
            total += attempt.cost_nusd
        return total


def shadow_record(
    attempt: Attempt, exchange_id: uuid.UUID, ordinal: int, trace: Trace | None = None
) -> dict[str, Any]:
    """The spool line of a shadow attempt: {"kind": "shadow", "attempt": {…columns}}. It ends after its exchange."""
    row = _attempt_row(attempt, exchange_id, ordinal) | {"role": SHADOW}
    return {"kind": "shadow", "attempt": row, **(trace.recorded() if trace is not None else {})}


def _decision_row(decision: Decision) -> dict[str, Any]:
    """Most of a line is its candidates, which many calls share."""
    row = dict(zip(_DECISION, _decision_values(decision), strict=True))
    row["candidates"] = [candidate.written(_as_fragment) for candidate in decision.candidates]
    return row


def _as_fragment(candidate: Candidate) -> orjson.Fragment:
    return orjson.Fragment(orjson.dumps(candidate))


def _attempt_row(attempt: Attempt, exchange_id: uuid.UUID, ordinal: int) -> dict[str, Any]:
    row = {
        "id": attempt.id,
        "exchange_id": exchange_id,
        "ordinal": ordinal,
        "started_at": utc(attempt.started_at),
        "target": attempt.target,
        "model": attempt.model,
        "result": attempt.result,
        "http_status": attempt.http_status,
        "error_code": attempt.error_code,
        "error_message": attempt.error_message,
        "ttft_s": attempt.ttft_s,
        "total_s": attempt.total_s,
        "is_estimated": attempt.is_estimated,
        "cost_usd": usd(attempt.cost_nusd),
        "price_id": attempt.price_id,
        "upstream_request_id": attempt.upstream_request_id,
        "engine": attempt.engine,
    }
    row.update(_usage_columns(attempt.usage))
    if attempt.service_tier is not None:
        row["service_tier"] = attempt.service_tier
    if attempt.usage is not None and attempt.usage.apart is not None:
        row["billed_apart"] = attempt.usage.apart
    return row


_NO_USAGE: dict[str, int | None] = dict.fromkeys(
    ("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
)


def _usage_columns(usage: Usage | None) -> dict[str, int | None]:
    if usage is None:
        return _NO_USAGE
    return {
        "input_tokens": usage.input_tokens,
        "cached_tokens": usage.cached_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }


def usd(nusd: int | None) -> str | None:
    """Nano-dollars as an exact decimal string of dollars: 1_500 → "0.000001500"."""
    if nusd is None:
        return None
    sign, whole = ("-" if nusd < 0 else ""), abs(nusd)
    return f"{sign}{whole // 10**9}.{whole % 10**9:09d}"


def nusd(dollars: str | None) -> int | None:
    """The reverse: nano-dollars of a decimal string; of any other digits, what they come to."""
    if dollars is None:
        return None
    return int(dollars[:-10] + dollars[-9:]) if dollars[-10:-9] == "." else int(Decimal(dollars).scaleb(9))


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
        "reported_at": utc(now).isoformat(),
        "status": status,
        "score": score,
        "workflow": workflow,
    }
    return {"kind": "outcome", "outcome": row}
