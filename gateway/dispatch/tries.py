"""One try of a call at one target: its place in the target's gate, its request, its attempt in the ledger.

In: the call, a target, the deadlines. Out: `Try`, with `Opened`, `Body` or `Failure` as its answer. A failure is in the
books when it is returned; an answer is the caller's to deliver, then to `release`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from gateway.dispatch.attempt import Body, Deadlines, Failure, Opened, fetch, open_stream
from gateway.dispatch.call import Call, Form
from gateway.dispatch.deadline import Watch
from gateway.dispatch.gates import Busy, Gate, Loan
from gateway.dispatch.tally import Tally
from gateway.ledger.records import Attempt
from gateway.telemetry.trace_context import TRACESTATE
from gateway.upstreams.base import Upstream, UpstreamCall
from gateway.wire.errors import UpstreamFailed
from router.catalog import Target
from router.outcome import Outcome


@dataclass(slots=True)
class Try:
    """One attempt on its way. `outcome` is there once it has failed."""

    target: Target
    form: Form
    attempt: Attempt
    gate: Gate | Loan | None
    answer: Opened | Body | Failure | None = None
    outcome: Outcome | None = None
    translated: dict[str, Any] | None = None  # a whole answer, where it is not passed on as it came
    _is_inside: bool = False

    async def run(
        self, upstream: Upstream, call: Call, shape: str, tally: Tally, deadlines: Deadlines
    ) -> None:
        """Fills in `answer`."""
        headers, stream = self._headers(call, shape, tally), call.query.stream
        request = UpstreamCall(
            self.form.path, self.form.body, stream, headers, call.is_repeatable, self.attempt
        )
        answer: Opened | Body | Failure | None = await self._enter(call.query.caller, deadlines)
        if answer is None and call.query.stream:
            answer = await open_stream(upstream, request, self.form.wire, deadlines)
        elif answer is None:
            answer = await fetch(upstream, request, deadlines)
        self.answer = answer = self._translate(answer)
        if isinstance(answer, Failure):
            self.release()
            self.outcome = tally.fail(self.attempt, answer, self.form.body)

    def _translate(self, answer: Opened | Body | Failure | None) -> Opened | Body | Failure | None:
        """An answer that cannot be said in the caller's format is none."""
        if isinstance(answer, Body) and self.form.translation is not None:
            try:
                self.translated = self.form.translation.whole(answer.value)
            except UpstreamFailed as error:
                return Failure("bad_response", error.message, http_status=200)
        return answer

    def release(self) -> None:
        """Gives the place at the target back; may be called twice."""
        if self.gate is not None and self._is_inside:
            self._is_inside = False
            self.gate.leave()

    def drop(self) -> None:
        """Another try was quicker: whatever this one has is closed."""
        if isinstance(self.answer, Opened):
            self.answer.reply.close()
        self.release()

    async def _enter(self, caller: str, deadlines: Deadlines) -> Failure | None:
        if self.gate is None:
            return None
        try:
            with Watch(min(deadlines.first_token, deadlines.total)):
                await self.gate.enter(caller)
        except (Busy, TimeoutError) as error:
            why = str(error) or "no place became free within the policy's first_token_s"
            return Failure("busy", why)
        self._is_inside = True
        return None

    def _headers(self, call: Call, shape: str, tally: Tally) -> Mapping[str, str]:
        request_id = tally.exchange.request_id
        headers = {**self.form.headers, "X-Request-Id": request_id, "Idempotency-Key": request_id}
        if tally.exchange.trace is not None:
            headers.pop(TRACESTATE, None)
            headers |= tally.exchange.trace.headers(self.attempt.id)
        if self.target.kind == "engine":  # whose queue is fair over callers, and which counts by shape
            headers["X-Sparkgate-Caller"] = quote(call.query.caller)
            headers["X-Sparkgate-Shape"] = quote(shape)
        return headers
