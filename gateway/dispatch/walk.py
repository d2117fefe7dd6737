"""In what order the targets of a decision are tried, how often, and what the client is told when all failed.

Pure. First every candidate once, then repeats of those whose failure allows it, `max_retries` further tries in
all. Trying another target costs its own load only; repeating one is paid from its `RetryBudget` by the caller.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.dispatch.attempt import Failure
from gateway.wire.errors import GatewayError, TargetBusy, UpstreamFailed, UpstreamRefused, UpstreamTimeout
from router.decision import Decision

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 4.0
# The upstream's opinion of our account, not of the caller's key: its status would mislead the caller.
OUR_ACCOUNT = frozenset({401, 402, 403, 404})
TOO_LONG = frozenset({"context_length_exceeded", "model_context_window_exceeded"})
# About the call, but not so that every target would refuse it: longer contexts and other filters exist.
ELSEWHERE = TOO_LONG | {"content_filter", "content_policy_violation"}
BUSY_RETRY_S = 1.0


def order(decision: Decision) -> Iterator[tuple[str, int]]:
    """(target, how many times it was tried before), at most 1 + max_retries of them."""
    names = [candidate.target for candidate in decision.candidates]
    for ordinal in range(1 + decision.max_retries if names else 0):
        yield names[ordinal % len(names)], ordinal // len(names)


def pause_s(repeat: int, retry_after_s: float | None, draw: float) -> float | None:
    """Wait before a repeat: what the upstream asked for, else 0.25 s doubling, ±20 % by the draw in [0, 1).

    None: it asked for more patience than a call has.
    """
    if repeat == 0:
        return 0.0
    if retry_after_s is not None:
        return retry_after_s if retry_after_s <= LONGEST_PAUSE_S else None
    return min(FIRST_PAUSE_S * 2.0 ** (repeat - 1), LONGEST_PAUSE_S) * (0.8 + 0.4 * draw)


def own_words(failure: Failure) -> bytes | None:
    """The upstream's error body, where it is fit for the caller as it is."""
    return failure.body if _is_about_the_call(failure, range(400, 600)) else None


def _is_about_the_call(failure: Failure, statuses: range) -> bool:
    status = failure.http_status
    return failure.result == "http_error" and status in statuses and status not in OUR_ACCOUNT


def error_of(target: str, failure: Failure) -> GatewayError:
    """What the client is told, from the first target's failure."""
    if failure.result.startswith("timeout"):
        return UpstreamTimeout(f"target '{target}': {failure.message}", code=failure.result)
    if failure.result == "busy":
        message = f"target '{target}' is busy: {failure.message}"
        return TargetBusy(message, retry_after_s=BUSY_RETRY_S)
    is_refused = own_words(failure) is not None or _is_about_the_call(failure, range(400, 500))
    if is_refused and failure.http_status:
        type_ = "invalid_request_error" if failure.http_status < 500 else "server_error"
        return UpstreamRefused(
            failure.http_status, failure.message, type_, failure.code or failure.result, failure.retry_after_s
        )
    said = f"HTTP {failure.http_status}: {failure.message}" if failure.http_status else failure.message
    return UpstreamFailed(
        f"target '{target}' failed ({failure.result}): {said}",
        code=failure.result,
        retry_after_s=failure.retry_after_s,
    )
