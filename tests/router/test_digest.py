"""A digest teaches what its outcomes teach, in any split, through JSON and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.digest import Digest
from router.fleet import Fleet
from router.learnt import Learnt, Sums
from router.outcome import Outcome, Result
from tests.router.calls import seen

SECONDS = st.floats(1e-3, 1e3)
RESULTS: tuple[Result, ...] = (
    *("ok", "timeout_first_token", "timeout_idle", "timeout_total", "connect_error", "http_error"),
    *("client_gone", "busy", "hedge_lost"),
)
OUTCOMES = st.builds(
    Outcome,
    target=st.just("a"),
    shape=st.just("general"),
    result=st.sampled_from(RESULTS),
    total_s=SECONDS,
    ttft_s=st.none() | SECONDS,
    tpot_s=st.none() | SECONDS,
    output_tokens=st.none() | st.integers(0, 10_000),
    is_truncated=st.booleans(),
    cost_usd=st.none() | st.floats(0.0, 10.0),
    http_status=st.sampled_from([400, 429, 500]),
    retry_after_s=st.none() | SECONDS,
)


def digest_of(outcomes: list[Outcome]) -> Digest:
    digest = Digest()
    for outcome in outcomes:
        digest.add(outcome)
    return digest


def carried(digest: Digest) -> Digest:
    return Digest.from_row(json.loads(json.dumps(digest.as_row())))


@given(st.lists(OUTCOMES, max_size=30), st.integers(0, 30))
def test_digests_teach_what_their_outcomes_teach(outcomes: list[Outcome], cut: int) -> None:
    seen_here, told = Learnt(60.0), Learnt(60.0)
    for outcome in outcomes:
        seen_here.observe(outcome, 5.0)
    for part in (outcomes[:cut], outcomes[cut:]):
        told.absorb(carried(digest_of(part)), 5.0)
    assert told.num_samples == seen_here.num_samples
    for name in Sums.__slots__:
        assert getattr(told.sums, name) == pytest.approx(getattr(seen_here.sums, name)), name
    assert told.ttft.counts == pytest.approx(seen_here.ttft.counts)
    assert told.completion.counts == pytest.approx(seen_here.completion.counts)


@given(st.lists(OUTCOMES, max_size=30))
def test_a_row_says_all(outcomes: list[Outcome]) -> None:
    digest = digest_of(outcomes)
    assert carried(digest) == digest
    assert digest.is_empty == (not outcomes)


def failed(http_status: int = 503) -> Outcome:
    return Outcome("a", "general", "http_error", 0.1, http_status=http_status)


def test_failures_in_a_row_end_with_a_success_of_a_call() -> None:
    digest = digest_of([failed(), failed(400), failed()])
    assert digest.failures_in_a_row == 2
    digest.add(Outcome("a", "general", "ok", 0.1, is_shadow=True))
    assert digest.failures_in_a_row == 2
    digest.add(Outcome("a", "general", "ok", 0.1))
    assert digest.failures_in_a_row == 0


def test_hearsay_of_failures_sheds_nothing_and_ones_own_failure_then_does() -> None:
    fleet = Fleet()
    fleet.absorb("a", "general", digest_of([failed()] * 50), 1.0)
    assert fleet.health("a").breaker.state(1.0) == "admitting"
    assert fleet.health("a").outlook("general", 1.0).success_share < 0.5
    seen(fleet, "a", 1.1, times=1, result="http_error", http_status=503)
    assert fleet.health("a").breaker.state(1.1) == "shedding"


def test_a_scaled_digest_moves_estimates_less() -> None:
    slow = digest_of([Outcome("a", "general", "ok", 10.0, ttft_s=5.0) for _ in range(100)])
    means = []
    for digest in (slow.scaled(0.01), slow):
        fleet = Fleet()
        seen(fleet, "a", 10.0, times=30, ttft_s=0.2)
        fleet.absorb("a", "general", digest, 10.0)
        means.append(fleet.health("a").outlook("general", 10.0).ttft_s)
    assert 0.2 < means[0] < 2.0 < means[1] < 5.1


@pytest.mark.parametrize("row", [{"sums": 3}, {"ttft": [[1]]}, {"num_samples": "many"}, {"ttft": 1}])
def test_what_is_no_row_is_refused(row: dict[str, object]) -> None:
    with pytest.raises((AttributeError, TypeError, ValueError)):
        Digest.from_row(row)


def test_a_newer_versions_row_is_read_as_far_as_it_is_known() -> None:
    row = digest_of([Outcome("a", "general", "ok", 1.0)]).as_row()
    row["sums"]["of_another_kind"] = 1.0
    assert Digest.from_row(row | {"surplus": 1}).sums.succeeded == 1.0
