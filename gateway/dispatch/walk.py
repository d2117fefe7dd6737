"""In what order the targets of a decision are tried, how often, and what the client is told when all failed.

Pure. First every candidate once, then repeats of those whose failure allows it, `max_retries` further tries in
all. Trying another target costs its own load only; repeating one is paid from its `RetryBudget` by the caller.
"""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from gateway.dispatch.attempt import Failure
from gateway.wire.errors import GatewayError, UpstreamFailed, UpstreamTimeout
from router.decision import Decision

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 4.0
# The upstream's opinion of our account, not of the caller's key: its status would mislead the caller.
OUR_ACCOUNT = frozenset({401, 402, 403, 404})


def order(decision: Decision) -> Iterator[tuple[str, int]]:
    """(target, how many times it was tried before), at most 1 + max_retries of them."""
    names = [candidate.target for candidate in decision.candidates]
    for ordinal in range(1 + decision.max_retries if names else 0):
        yield names[ordinal % len(names)], ordinal // len(names)


def pause_s(repeat: int, retry_after_s: float | None, draw: float) -> float:
    """Wait before a repeat: what the upstream asked for, else 0.25 s doubling, ±20 % by the draw in [0, 1)."""
    if repeat == 0:
        return 0.0
    if retry_after_s is not None:
        return min(retry_after_s, LONGEST_PAUSE_S)
    return min(FIRST_PAUSE_S * 2.0 ** (repeat - 1), LONGEST_PAUSE_S) * (0.8 + 0.4 * draw)


def verdict(target: str, failure: Failure) -> tuple[int, bytes, str]:
    """(status, body, error code) for the client, from the first target's failure."""
    status = failure.http_status
    if failure.result == "http_error" and failure.body and status and status not in OUR_ACCOUNT:
        return status, failure.body, failure.code or failure.result
    error = _own_error(target, failure)
    return error.status, orjson.dumps(error.value()), error.code


def _own_error(target: str, failure: Failure) -> GatewayError:
    if failure.result.startswith("timeout"):
        return UpstreamTimeout(f"target '{target}': {failure.message}", code=failure.result)
    said = f"HTTP {failure.http_status}: {failure.message}" if failure.http_status else failure.message
    return UpstreamFailed(f"target '{target}' failed ({failure.result}): {said}", code=failure.result)
