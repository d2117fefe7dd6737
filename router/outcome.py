"""`Outcome`: how one attempt ended, as the router learns from it; and whether another may be made.

In: figures of a finished attempt. Out: what `Fleet.observe` adds up and what the walk over candidates asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Result = Literal[
    "ok",
    "timeout_first_token",
    "timeout_idle",
    "timeout_total",
    "connect_error",
    "http_error",
    "bad_response",
    "cut_off",
    "client_gone",
    "busy",  # never sent: the target's own limit of parallel calls was reached
    "hedge_lost",  # another target answered first, so this try was ended
]
_NO_FAILURE = frozenset({"ok", "client_gone", "busy", "hedge_lost"})
TIMEOUTS: frozenset[str] = frozenset({"timeout_first_token", "timeout_idle", "timeout_total"})
# Given up while the first token was awaited.
NO_FIRST_TOKEN: frozenset[str] = frozenset({"timeout_first_token", "hedge_lost"})
# The upstream's own trouble, or its view of our account: another target may do better, as with all that are no 4xx.
# Other 4xx are about the request itself and would fail everywhere.
RETRYABLE_4XX = frozenset({401, 402, 403, 404, 408, 409, 425, 429})


@dataclass(slots=True)
class Outcome:
    """One attempt. `ttft_s` and `tpot_s` (seconds per output token after the first) are for streams only."""

    target: str
    shape: str
    result: Result
    total_s: float
    ttft_s: float | None = None
    tpot_s: float | None = None
    output_tokens: int | None = None
    is_truncated: bool = False  # ended for length, though the caller set no limit
    cost_usd: float | None = None
    http_status: int | None = None
    retry_after_s: float | None = None
    workflow: str | None = None
    is_shadow: bool = False  # on trial: it tells of speed and success like any, but closes no door to calls

    @property
    def is_failure(self) -> bool:
        """Trouble of the target's making; a caller's bad request or departure is neither failure nor success."""
        if self.result == "http_error":
            status = self.http_status or 0
            return status in RETRYABLE_4XX or not 400 <= status < 500
        return self.result not in _NO_FAILURE

    @property
    def is_retryable(self) -> bool:
        """May another attempt follow, given that nothing reached the client? Not once the total time is spent."""
        return self.result == "busy" or (self.is_failure and self.result != "timeout_total")
