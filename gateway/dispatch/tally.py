"""`Tally`: the one owner of an `Exchange` while it runs; every figure of the ledger is written here.

In: what happens to a call (attempt begun, stream piece seen, attempt ended, call closed), on the monotonic clock.
Out: the exchange's record in the spool, outcomes to the fleet, response headers. Decides nothing.
"""

from __future__ import annotations

import time
from typing import Any, Literal

from gateway.dispatch.attempt import Failure
from gateway.dispatch.booking import Book
from gateway.ledger.records import Attempt, Exchange
from gateway.wire.chat import Piece, usage_of
from router.decision import Decision
from router.fleet import Fleet
from router.outcome import Outcome, Result
from router.query import Query

_DEADLINES: dict[str, Literal["first_token", "idle", "total"]] = {
    "timeout_first_token": "first_token",
    "timeout_idle": "idle",
    "timeout_total": "total",
}
MAX_MESSAGE_CHARS = 500


class Tally:
    """One call's bookkeeping. `close` is idempotent: the first one counts."""

    def __init__(
        self, query: Query, caller: str, policy_hash: str, arrived: float, book: Book, fleet: Fleet
    ) -> None:
        """`arrived` is the call's first moment on the monotonic clock."""
        started_at = time.time() - (time.monotonic() - arrived)
        self.exchange = Exchange(caller, query.endpoint, query.stream, started_at)
        self.exchange.model_asked, self.exchange.task_id = query.model, query.task_id
        self.exchange.workflow, self.exchange.policy_hash = query.workflow, policy_hash
        self._arrived, self._book, self._fleet = arrived, book, fleet
        self._has_output_limit = query.max_output_tokens is not None
        self._attempt_started = arrived
        self._attempt_is_open = False
        self._is_closed = False

    @property
    def attempt(self) -> Attempt:
        return self.exchange.attempts[-1]

    def decided(self, decision: Decision) -> None:
        self.exchange.shape, self.exchange.shape_source = decision.shape, decision.shape_source
        self.exchange.decision = decision.as_json()

    def begin(self, target: str, model: str) -> float:
        """Opens an attempt; gives its start on the monotonic clock."""
        self._attempt_started = time.monotonic()
        if not self.exchange.attempts:
            self.exchange.overhead_s = self._attempt_started - self._arrived
        self.exchange.attempts.append(Attempt(target, model, time.time()))
        self._fleet.start(target)
        self._attempt_is_open = True
        return self._attempt_started

    def note(self, piece: Piece) -> None:
        """Takes in one stream event."""
        if piece.has_token and self.attempt.ttft_s is None:
            now = time.monotonic()
            self.attempt.ttft_s, self.exchange.ttft_s = now - self._attempt_started, now - self._arrived
        if piece.finish_reason:
            self.exchange.finish_reason = piece.finish_reason
        value = piece.value
        if value is not None and (
            piece.usage or "sparkgate" in value or self.exchange.response_model is None
        ):
            self.learn(value)

    def learn(self, value: dict[str, Any]) -> None:
        """Usage, model name and the engine's own figures, from a body or a chunk."""
        self.attempt.usage = usage_of(value) or self.attempt.usage
        if isinstance(value.get("sparkgate"), dict):
            self.attempt.engine = value["sparkgate"]
        if isinstance(value.get("model"), str):
            self.exchange.response_model = value["model"]

    def learn_engine_ttft(self) -> None:
        """A non-streamed call's time to first token, where the engine tells it: queue_s + prefill_s."""
        said = self.attempt.engine or {}
        queue_s, prefill_s = said.get("queue_s"), said.get("prefill_s")
        if isinstance(queue_s, int | float) and isinstance(prefill_s, int | float):
            self.attempt.ttft_s = self.exchange.ttft_s = float(queue_s + prefill_s)

    def fail(self, failure: Failure) -> Outcome:
        """Ends an attempt of which nothing reached the client."""
        self.attempt.upstream_request_id = failure.upstream_request_id
        self.attempt.http_status = failure.http_status
        return self.end(
            failure.result, failure.code or failure.result, failure.message, failure.retry_after_s
        )

    def end(
        self,
        result: Result,
        error_code: str | None = None,
        message: str | None = None,
        retry_after_s: float | None = None,
    ) -> Outcome:
        """Ends the open attempt: booked, and told to the fleet."""
        attempt = self.attempt
        attempt.result, attempt.error_code = result, error_code
        attempt.error_message = message[:MAX_MESSAGE_CHARS] if message else None
        attempt.total_s = time.monotonic() - self._attempt_started
        self.exchange.timed_out = _DEADLINES.get(result, self.exchange.timed_out)
        self._book.charge(attempt)
        self._attempt_is_open = False
        outcome = self._outcome(retry_after_s)
        self._fleet.observe(outcome, time.monotonic())
        return outcome

    def _outcome(self, retry_after_s: float | None) -> Outcome:
        attempt, is_stream = self.attempt, self.exchange.stream
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
        )

    def close(self, status: int, error_code: str | None = None) -> None:
        """Writes the record. Call it before the last byte leaves."""
        if self._is_closed:
            return
        self._is_closed = True
        self.exchange.status, self.exchange.error_code = status, error_code
        self.exchange.total_s = time.monotonic() - self._arrived
        self._book.close(self.exchange)

    def leave(self, status: int, error_code: str) -> None:
        """The client is gone, or we failed ourselves: whatever ran is booked, and the record says so."""
        if self._attempt_is_open:
            self.end("client_gone", error_code)
        self.close(status, error_code)

    def headers(self) -> dict[str, str]:
        """Response headers that say what was decided."""
        exchange = self.exchange
        headers = {
            "X-Request-Id": exchange.request_id,
            "X-Sparkgate-Policy": exchange.policy_hash or "",
            "X-Sparkgate-Attempts": str(len(exchange.attempts)),
        }
        if exchange.shape:
            headers["X-Sparkgate-Shape"] = exchange.shape
        if exchange.attempts:
            headers["X-Sparkgate-Target"] = self.attempt.target
        if exchange.overhead_s is not None:
            headers["X-Sparkgate-Overhead-Ms"] = f"{exchange.overhead_s * 1e3:.2f}"
        return headers
