"""What counts against a target, and what another one may be asked after."""

from __future__ import annotations

import pytest

from router.outcome import Outcome, Result


@pytest.mark.parametrize(
    ("result", "status", "is_failure", "is_retryable"),
    [
        ("ok", 200, False, False),
        ("client_gone", None, False, False),
        ("hedge_lost", None, False, False),
        ("busy", None, False, True),
        ("http_error", 400, False, False),
        ("http_error", 429, True, True),
        ("http_error", 503, True, True),
        ("connect_error", None, True, True),
        ("bad_response", 200, True, True),
        ("cut_off", 200, True, True),
        ("timeout_first_token", None, True, True),
        ("timeout_idle", None, True, True),
        ("timeout_total", None, True, False),
    ],
)
def test_trouble_of_the_targets_making_counts_and_allows_another_try(
    result: Result, status: int | None, is_failure: bool, is_retryable: bool
) -> None:
    outcome = Outcome("a", "general", result, 1.0, http_status=status)
    assert (outcome.is_failure, outcome.is_retryable) == (is_failure, is_retryable)
