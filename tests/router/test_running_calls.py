"""Calls on their way teach before they end: by the first token, and those that wait for it by their age."""

from __future__ import annotations

from router.decide import decide
from router.fleet import Fleet
from tests.router.calls import catalog, policy, query, seen

NOW = 1_000.0


def ttft_s(fleet: Fleet, now: float) -> float:
    prediction = decide(query(), catalog("a"), policy(), fleet, now, 0.5).candidates[0].prediction
    assert prediction is not None
    return prediction.ttft_s


def known(*, running: int = 0, is_stream: bool = True) -> Fleet:
    """A target that answers after 0.2 s, and has some calls since then."""
    fleet = Fleet()
    seen(fleet, "a", NOW, times=50)
    for number in range(running):
        fleet.start("a", "general", NOW + 0.01 * number, is_stream)
    return fleet


def test_calls_that_wait_far_longer_than_usual_say_so() -> None:
    as_it_was = ttft_s(known(), NOW + 10.0)
    assert ttft_s(known(running=5), NOW + 10.0) > 5 * as_it_was


def test_calls_that_are_not_streamed_wait_for_no_first_token() -> None:
    busy = known(running=5, is_stream=False)
    assert ttft_s(busy, NOW + 10.0) < 2 * ttft_s(known(), NOW + 10.0)


def test_a_first_token_teaches_at_once() -> None:
    fleet = Fleet()
    before = ttft_s(fleet, NOW)
    call = fleet.start("a", "general", NOW)
    assert call is not None
    fleet.first_token("a", "general", 0.1, NOW + 0.1, call)
    assert ttft_s(fleet, NOW + 5.0) < before
