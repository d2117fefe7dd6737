"""Verdicts: whether a call has completed its task, as far as the call itself shows; a caller's own word outweighs it.

In: a closed exchange, the policy's `completed_when`, what the call asked for. Out: completed, failed, or None: the task
goes on, or only the caller can tell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from gateway.ledger.records import Exchange
from gateway.wire.paths import EMBEDDINGS
from router.policy import CompletedWhen
from router.query import Query

Verdict = Literal["completed", "failed"]


def verdict(
    exchange: Exchange, rule: CompletedWhen, query: Query, is_valid_json: Callable[[], bool]
) -> Verdict | None:
    """`is_valid_json` is asked only where the rule is `json_valid` and the answer came to its end."""
    if rule == "explicit" or exchange.status == 499 or exchange.error_code == "client_gone":
        return None
    if exchange.status != 200 or exchange.error_code is not None:
        return "failed"
    reason = exchange.finish_reason
    if reason == "content_filter" or (reason == "length" and query.max_output_tokens is None):
        return "failed"
    if reason not in ("stop", "length") and exchange.endpoint != EMBEDDINGS:
        return None  # it calls tools, or nobody says how it ended
    if rule == "json_valid":
        return "completed" if is_valid_json() else "failed"
    return None if rule == "tool_loop_ends" and not query.has_tool_messages else "completed"
