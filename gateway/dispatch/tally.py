"""`Tally`: the one owner of an `Exchange` while it runs; every figure of the ledger is written here.

In: what happens to a call (attempts begun, stream pieces seen, attempts ended, call closed), on the monotonic clock.
Several attempts may be open at once. Out: the exchange's record in the spool, outcomes to the fleet, response headers.
Decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from gateway.callers.quotas import Grant
from gateway.dispatch.attempt import Failure
from gateway.dispatch.booking import Book
from gateway.dispatch.call import Call
from gateway.dispatch.quotes import MAX_MESSAGE_CHARS, without_quotes
from gateway.dispatch.threads import Threads
from gateway.dispatch.verdicts import verdict
from gateway.ledger.records import Attempt, Exchange, Usage
from gateway.wire.billing import service_tier_of
from gateway.wire.chat import Piece
from gateway.wire.paths import MESSAGES
from router.decision import Decision
from router.fleet import Fleet
from router.outcome import Outcome, Result
from router.policy import ShapePolicy
from router.query import Query
from router.waits import Began

_DEADLINES: dict[str, Literal["first_token", "idle", "total"]] = {
    "timeout_first_token": "first_token",
    "timeout_idle": "idle",
    "timeout_total": "total",
}
MAX_FIGURE = 1e9
_DEFAULTS = ShapePolicy()
# Ended by us or in mid-answer: what was computed until then is charged, though nobody says how much it was.
_BROKEN_OFF = frozenset({"client_gone", "hedge_lost", "cut_off", "bad_response", *_DEADLINES})


class Tally:
    """One call's bookkeeping. `close` is idempotent: the first one counts."""

    def __init__(
        self, query: Query, grant: Grant, policy_hash: str, arrived: float, book: Book, fleet: Fleet
    ) -> None:
        """`arrived` is the call's first moment on the monotonic clock."""
        started_at = time.time() - (time.monotonic() - arrived)
        self.exchange = Exchange(query.caller, query.endpoint, query.stream, started_at)
        self.exchange.model_asked, self.exchange.task_id = query.model, query.task_id
        self.exchange.workflow, self.exchange.policy_hash = query.workflow, policy_hash
        self._grant, self._arrived, self._book, self._fleet = grant, arrived, book, fleet
        self._has_output_limit = query.max_output_tokens is not None
        self._input_tokens, self._query = query.input_tokens, query
        self._call: Call | None = None
        self._threads: Threads | None = None
        self._policy = _DEFAULTS
        self._response_id: str | None = None
        self.answer: Sequence[bytes] = ()  # as the client got it, where somebody reads it
        self._open: dict[Attempt, Began | None] = {}
        self._is_closed = False

    def hears(self, call: Call, threads: Threads) -> None:
        """What its task is told by, once it is closed."""
        self._call, self._threads = call, threads

    def decided(self, decision: Decision, policy: ShapePolicy | None = None) -> None:
        self.exchange.shape, self.exchange.shape_source = decision.shape, decision.shape_source
        self.exchange.decision = decision
        self._policy = policy or self._policy

    @property
    def reads_answer(self) -> bool:
        """Whether `answer` is wanted whole at the end."""
        return self._policy.completed_when == "json_valid"

    def begin(self, target: str, model: str) -> Attempt:
        """Opens an attempt."""
        now = time.monotonic()
        if not self.exchange.attempts:
            self.exchange.overhead_s = now - self._arrived
        attempt = Attempt(target, model, time.time(), now)
        self.exchange.attempts.append(attempt)
        self._open[attempt] = self._fleet.start(target, self.exchange.shape, now, self.exchange.stream)
        return attempt

    def answers(self, attempt: Attempt, http_status: int, upstream_request_id: str | None) -> None:
        """From now on this attempt is the one that the client hears of."""
        self.exchange.answered = attempt
        attempt.http_status, attempt.upstream_request_id = http_status, upstream_request_id

    def note(self, attempt: Attempt, piece: Piece) -> None:
        """Takes in one event of the stream that answers."""
        if piece.has_token:
            attempt.seen_tokens += 1
            if attempt.ttft_s is None:
                now = time.monotonic()
                attempt.ttft_s, self.exchange.ttft_s = now - attempt.begun, now - self._arrived
                shape, began = self.exchange.shape, self._open.get(attempt)
                if shape is not None and began is not None:
                    self._fleet.first_token(attempt.target, shape, attempt.ttft_s, now, began)
        if piece.finish_reason:
            self.exchange.finish_reason = piece.finish_reason
        if piece.value is not None:
            self.learn(attempt, piece.value, piece.usage)

    def learn(self, attempt: Attempt, value: dict[str, Any], usage: Usage | None) -> None:
        """Usage, service tier, model name and the engine's own figures, from a body or a chunk."""
        if usage is not None:
            attempt.usage = usage if attempt.usage is None else attempt.usage.merged(usage)
        if attempt.service_tier is None:
            attempt.service_tier = service_tier_of(value)
        if (figures := value.get("sparkgate")) is not None and _are_figures(figures):
            attempt.engine = figures
        if self.exchange.response_model is None and isinstance(value.get("model"), str):
            self.exchange.response_model = value["model"]
            if value.get("object") == "response" and isinstance(value.get("id"), str):
                self._response_id = value["id"]

    def learn_engine_ttft(self, attempt: Attempt) -> None:
        """A non-streamed call's time to first token, where the engine tells it: queue_s + prefill_s."""
        said = attempt.engine or {}
        queue_s, prefill_s = said.get("queue_s"), said.get("prefill_s")
        if isinstance(queue_s, int | float) and isinstance(prefill_s, int | float):
            attempt.ttft_s = self.exchange.ttft_s = float(queue_s + prefill_s)

    def fail(self, attempt: Attempt, failure: Failure, sent: bytes) -> Outcome:
        """Ends an attempt of which nothing reached the client; `sent` is what the target got."""
        attempt.upstream_request_id, attempt.http_status = failure.upstream_request_id, failure.http_status
        attempt.usage = failure.usage
        code = failure.code or failure.result
        message = without_quotes(failure.message, sent)
        return self.end(attempt, failure.result, code, message, failure.retry_after_s)

    def end(
        self,
        attempt: Attempt,
        result: Result,
        error_code: str | None = None,
        message: str | None = None,
        retry_after_s: float | None = None,
    ) -> Outcome:
        """Ends an open attempt: booked, and told to the fleet."""
        attempt.result, attempt.error_code = result, error_code
        attempt.error_message = message[:MAX_MESSAGE_CHARS] if message else None
        now = time.monotonic()
        attempt.total_s = now - attempt.begun
        if attempt.is_sent and result in _BROKEN_OFF:
            self._estimate(attempt)
        self.exchange.timed_out = _DEADLINES.get(result, self.exchange.timed_out)
        self._book.charge(attempt)
        outcome = self._outcome(attempt, retry_after_s)
        self._fleet.observe(outcome, now, self._open.pop(attempt))
        return outcome

    def _estimate(self, attempt: Attempt) -> None:
        """What was seen, about a token an event. A stream of Messages first tells of its input only."""
        told = attempt.usage
        if told is None:
            attempt.usage, attempt.is_estimated = Usage(self._input_tokens, attempt.seen_tokens), True
        elif self.exchange.finish_reason is None and told.output_tokens < attempt.seen_tokens:
            attempt.usage = replace(told, output_tokens=attempt.seen_tokens)
            attempt.is_estimated = True

    def _outcome(self, attempt: Attempt, retry_after_s: float | None) -> Outcome:
        is_stream = self.exchange.stream
        output = attempt.usage.output_tokens if attempt.usage else None
        tpot_s = None
        if is_stream and attempt.ttft_s is not None and output is not None and output > 1:
            tpot_s = (attempt.total_s - attempt.ttft_s) / (output - 1)
        return Outcome(
            target=attempt.target,
            shape=self.exchange.shape or "general",
            result=attempt.result,
            total_s=attempt.total_s,
            ttft_s=attempt.ttft_s if is_stream else None,
            tpot_s=tpot_s,
            output_tokens=output,
            is_truncated=self.exchange.finish_reason == "length" and not self._has_output_limit,
            cost_usd=None if attempt.cost_nusd is None else attempt.cost_nusd * 1e-9,
            http_status=attempt.http_status,
            retry_after_s=retry_after_s,
            workflow=self.exchange.workflow,
        )

    def close(self, status: int, error_code: str | None = None) -> None:
        """Writes the record. Call it before the last byte leaves."""
        if self._is_closed:
            return
        self._is_closed = True
        self.exchange.status, self.exchange.error_code = status, error_code
        self.exchange.total_s = time.monotonic() - self._arrived
        self._judge()
        self._book.close(self.exchange)
        spent_nusd = sum(attempt.cost_nusd or 0 for attempt in self.exchange.attempts)
        self._grant.settle(self._tokens(), spent_nusd, self.exchange.id)

    def _judge(self) -> None:
        """Which task it belongs to, and whether that is completed by it."""
        exchange, call = self.exchange, self._call
        exchange.verdict = verdict(exchange, self._policy.completed_when, self._query, self._is_valid_json)
        if exchange.verdict is None:
            exchange.open_for_s = self._policy.abandoned_after_s
        if exchange.task_id is None and call is not None and self._threads is not None:
            exchange.thread = self._threads.of(
                exchange.caller, call.history, call.goes_on_from, self._response_id
            )

    def _is_valid_json(self) -> bool:
        return self._call is None or self._call.is_valid_json(b"".join(self.answer))

    def _tokens(self) -> int | None:
        """Tokens to count against the caller's limits; None = an upstream worked and nobody knows how much."""
        usages = [attempt.usage for attempt in self.exchange.attempts if attempt.cost_nusd != 0]
        if None in usages:
            return None
        return sum(usage.input_tokens + usage.output_tokens for usage in usages if usage is not None)

    def leave(self, status: int, error_code: str) -> None:
        """The client is gone, or we failed ourselves: whatever ran is booked, and the record says so."""
        for attempt in tuple(self._open):
            self.end(attempt, "client_gone", error_code)
        self.close(status, error_code)

    def headers(self) -> dict[str, str]:
        """Response headers that say what was decided, and what of the caller's limits is left."""
        exchange, last = self.exchange, self.exchange.last
        headers = {
            "X-Request-Id": exchange.request_id,
            "X-Sparkgate-Policy": exchange.policy_hash or "",
            "X-Sparkgate-Attempts": str(len(exchange.attempts)),
        }
        if exchange.shape:
            headers["X-Sparkgate-Shape"] = exchange.shape
        if last:
            headers["X-Sparkgate-Target"] = last.target
        if exchange.cache:
            headers["X-Sparkgate-Cache"] = exchange.cache
        if exchange.overhead_s is not None:
            headers["X-Sparkgate-Overhead-Ms"] = f"{exchange.overhead_s * 1e3:.2f}"
        if exchange.endpoint == MESSAGES:
            headers["Request-Id"] = exchange.request_id  # where Anthropic's clients look for it
        headers.update(self._grant.headers())
        return headers


def _are_figures(told: Any) -> bool:
    """Seconds and counts of an engine, and not whatever else a target may write there."""
    return isinstance(told, dict) and all(
        isinstance(figure, int | float) and 0 <= figure < MAX_FIGURE for figure in told.values()
    )
