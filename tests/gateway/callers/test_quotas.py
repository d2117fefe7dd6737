"""Limits hold whatever comes in whatever order, and what is given back is neither lost nor counted twice."""

from __future__ import annotations

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.callers.keys import Key, KeyLimits
from gateway.callers.quotas import Grant, Quotas, Refused, duration
from gateway.callers.spending import Spending

NOON = 1_795_262_400.0  # 2026-11-21 12:00:00 UTC
USD = 10**9


def key(**limits: object) -> Key:
    return Key(uuid4(), "app", "sg-0123", "call", KeyLimits(**limits))  # type: ignore[arg-type]


def quotas(workers: int = 1) -> Quotas:
    return Quotas(Spending(), workers)


def refused(quotas: Quotas, key: Key, tokens: int = 1, now: float = NOON, nusd: int = 0) -> Refused:
    with pytest.raises(Refused) as caught:
        quotas.admit(key, "m", tokens, now, nusd)
    return caught.value


def is_granted(quotas: Quotas, key: Key, tokens: int, now: float) -> bool:
    try:
        quotas.admit(key, "m", tokens, now)
    except Refused:
        return False
    return True


def test_a_key_without_limits_is_always_granted_and_says_nothing() -> None:
    worker, free = quotas(), key()
    grants = [worker.admit(free, "m", 10**9, NOON) for _ in range(1000)]
    assert {str(grant.headers()) for grant in grants} == {"{}"}
    grants[0].settle(1, 1, uuid4())


def test_calls_of_a_minute_may_come_at_once_then_one_by_one() -> None:
    worker, limited = quotas(), key(rpm=60)
    for _ in range(60):
        worker.admit(limited, "m", 1, NOON)
    error = refused(worker, limited)
    assert (error.limit, error.retry_after_s) == ("requests", 1.0)
    assert "60 requests a minute" in error.message
    assert error.headers["x-ratelimit-remaining-requests"] == "0"
    assert error.headers["x-ratelimit-reset-requests"] == "1m0s"
    worker.admit(limited, "m", 1, NOON + 1)
    assert refused(worker, limited, now=NOON + 1.5).retry_after_s == 0.5


def test_headers_are_openais_and_only_of_limits_there_are() -> None:
    worker = quotas()
    assert worker.admit(key(rpm=60, tpm=6000), "m", 100, NOON).headers() == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "5900",
        "x-ratelimit-reset-tokens": "1s",
    }
    assert set(quotas().admit(key(tpm=10), "m", 1, NOON).headers()) == {
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
    }
    assert quotas().admit(key(parallel=1), "m", 1, NOON).headers() == {}


def test_headers_tell_how_things_stood_when_the_call_was_granted() -> None:
    worker, limited = quotas(), key(rpm=60)
    first = worker.admit(limited, "m", 1, NOON)
    worker.admit(limited, "m", 1, NOON)
    assert first.headers()["x-ratelimit-remaining-requests"] == "59"


def test_tokens_are_reserved_and_the_surplus_comes_back_once() -> None:
    worker, limited = quotas(), key(tpm=1000)
    grant = worker.admit(limited, "m", 900, NOON)
    assert refused(worker, limited, 200).limit == "tokens"
    for _ in range(3):
        grant.settle(300)
    worker.admit(limited, "m", 700, NOON)
    assert refused(worker, limited).limit == "tokens"


def test_a_call_that_used_more_than_it_reserved_is_paid_for_by_waiting() -> None:
    worker, limited = quotas(), key(tpm=600)
    worker.admit(limited, "m", 100, NOON).settle(1200)
    assert refused(worker, limited, 1).retry_after_s == pytest.approx(60.1)
    worker.admit(limited, "m", 1, NOON + 60.2)


def test_a_call_of_unknown_usage_keeps_its_reservation() -> None:
    worker, limited = quotas(), key(tpm=1000)
    worker.admit(limited, "m", 900, NOON).settle(None)
    assert refused(worker, limited, 200).limit == "tokens"


def test_a_call_larger_than_the_limit_is_told_not_to_come_back() -> None:
    error = refused(quotas(), key(tpm=1000), 1001)
    assert (error.limit, error.retry_after_s, error.headers["x-should-retry"]) == ("tokens", None, "false")
    assert "1001 tokens" in error.message


def test_a_refused_call_takes_nothing() -> None:
    worker, limited = quotas(), key(rpm=60, tpm=100, parallel=5)
    for _ in range(10):
        assert refused(worker, limited, 101).limit == "tokens"
    grant = worker.admit(limited, "m", 100, NOON)
    assert grant.headers()["x-ratelimit-remaining-requests"] == "59"


def test_calls_at_once_are_those_not_settled() -> None:
    worker, limited = quotas(), key(parallel=2)
    first, second = (worker.admit(limited, "m", 1, NOON) for _ in range(2))
    assert refused(worker, limited).limit == "parallel"
    first.settle()
    first.settle()
    worker.admit(limited, "m", 1, NOON)
    assert refused(worker, limited).limit == "parallel"
    second.settle(None)
    worker.admit(limited, "m", 1, NOON)


@pytest.mark.parametrize(
    ("model", "is_allowed"),
    [
        ("gpt-4o", True),
        ("auto", True),
        ("gpt", False),
        ("xgpt-4o", False),
        ("auto/general", False),
        ("", False),
    ],
)
def test_models_are_allowed_by_shell_patterns(model: str, is_allowed: bool) -> None:
    limited = key(allowed_models=("gpt-*", "auto"))
    if is_allowed:
        quotas().admit(limited, model, 1, NOON)
        return
    with pytest.raises(Refused, match="may not use") as caught:
        quotas().admit(limited, model, 1, NOON)
    assert (caught.value.limit, caught.value.retry_after_s) == ("models", None)


def test_a_budget_stops_calls_once_it_is_spent_until_the_day_ends() -> None:
    worker, limited = quotas(), key(daily_nusd=USD)
    for _ in range(2):
        worker.admit(limited, "m", 1, NOON).settle(1, USD // 2, uuid4())
    error = refused(worker, limited)
    assert (error.limit, error.retry_after_s) == ("budget", 12 * 3600)
    assert error.message == "this key has spent 1 of 1 USD this day; the next day begins on 2026-11-22 (UTC)"
    assert error.headers == {"x-should-retry": "false"}
    worker.admit(limited, "m", 1, NOON + 12 * 3600)


def test_a_months_budget_outlasts_its_days() -> None:
    worker, limited = quotas(), key(monthly_nusd=USD)
    worker.admit(limited, "m", 1, NOON).settle(1, USD, uuid4())
    end = NOON + 9.5 * 86_400  # the last of November ends
    assert refused(worker, limited, now=end - 1).retry_after_s == 1.0
    worker.admit(limited, "m", 1, end)


def test_what_calls_in_flight_may_cost_counts_until_they_are_settled() -> None:
    worker, limited = quotas(), key(daily_nusd=USD)
    grant = worker.admit(limited, "m", 1, NOON, nusd=USD)
    error = refused(worker, limited)
    assert (error.limit, error.retry_after_s) == ("budget", 1.0)
    grant.settle(1, USD // 10, uuid4())
    worker.admit(limited, "m", 1, NOON)


def test_other_callers_are_not_affected() -> None:
    worker = quotas()
    worker.admit(key(rpm=1), "m", 1, NOON)
    other = Key(uuid4(), "other", "sg-4567", "call", KeyLimits(rpm=1))
    worker.admit(other, "m", 1, NOON)


def test_changed_limits_hold_from_the_next_call_and_forget_nothing_in_flight() -> None:
    worker = quotas()
    running = worker.admit(key(parallel=5, tpm=1000), "m", 600, NOON)
    assert refused(worker, key(parallel=1, tpm=1000)).limit == "parallel"
    assert refused(worker, key(tpm=500), 500).limit == "tokens"  # 400 were left
    running.settle(0)
    worker.admit(key(tpm=500), "m", 500, NOON)


def test_settling_a_call_from_before_a_limit_gives_the_new_bucket_nothing() -> None:
    worker = quotas()
    grant = worker.admit(key(rpm=100), "m", 5000, NOON)
    worker.admit(key(tpm=1000), "m", 1000, NOON)
    grant.settle(0)
    assert refused(worker, key(tpm=1000), 1).limit == "tokens"


def test_workers_have_equal_shares_of_at_least_one_call() -> None:
    worker, limited = quotas(4), key(rpm=60, parallel=2)
    first = worker.admit(limited, "m", 1, NOON)
    assert first.headers()["x-ratelimit-remaining-requests"] == "56"  # 14 of 15 here, as many elsewhere
    assert refused(worker, limited).limit == "parallel"
    first.settle()
    for _ in range(14):
        worker.admit(limited, "m", 1, NOON).settle()
    assert refused(worker, limited).retry_after_s == 4.0
    tight = key(rpm=1)
    lone = quotas(4)
    lone.admit(tight, "m", 1, NOON)
    assert refused(lone, tight).retry_after_s == 240.0


def test_a_share_smaller_than_a_call_still_serves_it_at_the_shares_pace() -> None:
    worker, limited = quotas(4), key(tpm=1000)
    worker.admit(limited, "m", 900, NOON).settle(900)
    assert refused(worker, limited, 900).retry_after_s == pytest.approx(900 / (250 / 60))


def test_a_clock_set_back_neither_blocks_nor_refills() -> None:
    worker, limited = quotas(), key(rpm=60)
    for _ in range(60):
        worker.admit(limited, "m", 1, NOON)
    assert refused(worker, limited, now=NOON - 3600).retry_after_s == 1.0
    worker.admit(limited, "m", 1, NOON - 3599)


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0ms"),
        (-1, "0ms"),
        (0.0115, "12ms"),
        (0.9995, "1s"),
        (1, "1s"),
        (6.2, "7s"),
        (360, "6m0s"),
        (3605, "1h0m5s"),
    ],
)
def test_durations_are_written_as_openai_does(seconds: float, written: str) -> None:
    assert duration(seconds) == written


gaps = st.floats(0, 90, allow_nan=False)
sizes = st.integers(0, 300)


@given(st.lists(gaps, min_size=1, max_size=80), st.integers(1, 40), st.integers(1, 4))
def test_no_window_ever_sees_more_calls_than_a_burst_and_the_refill(
    gaps: list[float], rpm: int, workers: int
) -> None:
    worker, limited, now, granted = quotas(workers), key(rpm=rpm), NOON, []
    for gap in gaps:
        now += gap
        granted += [now] * sum(is_granted(worker, limited, 0, now) for _ in range(3))
    burst = max(1.0, rpm / workers)
    for start, first in enumerate(granted):
        for end in range(start, len(granted)):
            most = burst + (granted[end] - first) * rpm / workers / 60
            assert end - start + 1 <= most + 1e-4


@given(st.lists(st.tuples(gaps, sizes, sizes), min_size=1, max_size=60))
def test_no_window_ever_uses_more_tokens_than_a_burst_and_the_refill(
    calls: list[tuple[float, int, int]],
) -> None:
    """For calls that use at most what they reserved; the others' surplus delays what comes after them."""
    worker, limited, now, used = quotas(), key(tpm=300), NOON, []
    for gap, reserved, wanted in calls:
        now += gap
        if is_granted_and_settled(worker, limited, reserved, min(reserved, wanted), now):
            used.append((now, min(reserved, wanted)))
    for start in range(len(used)):
        total = 0
        for moment, tokens in used[start:]:
            total += tokens
            assert total <= 300 + (moment - used[start][0]) * 5 + 1e-3


def is_granted_and_settled(quotas: Quotas, key: Key, reserved: int, used: int, now: float) -> bool:
    try:
        quotas.admit(key, "m", reserved, now).settle(used)
    except Refused:
        return False
    return True


@given(st.lists(st.tuples(sizes, sizes, st.booleans()), max_size=60))
def test_after_any_history_a_rested_key_is_as_new(calls: list[tuple[int, int, bool]]) -> None:
    worker, limited, open_grants = quotas(), key(rpm=1000, tpm=300, parallel=3), []
    for reserved, used, ends_now in calls:
        try:
            grant = worker.admit(limited, "m", reserved, NOON)
        except Refused:
            continue
        open_grants.append((grant, used))
        if ends_now:
            settle_all(open_grants)
    settle_all(open_grants)
    later = NOON + 60 * (1 + 60)  # every call may owe a minute's worth
    fresh = [worker.admit(limited, "m", 100, later) for _ in range(3)]
    assert fresh[0].headers()["x-ratelimit-remaining-requests"] == "999"
    assert fresh[2].headers()["x-ratelimit-remaining-tokens"] == "0"
    assert refused(worker, limited, 0, later).limit == "parallel"


def settle_all(grants: list[tuple[Grant, int]]) -> None:
    for grant, used in grants:
        grant.settle(used)
    grants.clear()
