from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.errors import QueueFull
from engine.places import PlaceLimits, Places


def places(
    max_batch: int = 2, max_waiting: int = 4, per_caller: int = 2, turn_s: float | None = None
) -> Places:
    return Places(PlaceLimits(max_batch, max_waiting, per_caller), lambda: turn_s)


def enter(subject: Places, *callers: str) -> None:
    for caller in callers:
        subject.enter(caller)


def test_an_idle_engine_takes_a_batch_and_a_queue() -> None:
    subject = places()
    enter(subject, *"abcabc")
    with pytest.raises(QueueFull, match="All 4 waiting places are taken"):
        subject.enter("d")
    assert subject.num_open == 6


def test_one_caller_cannot_take_the_whole_queue() -> None:
    subject = places()
    enter(subject, *"aa")
    for _ in range(2):
        subject.began("a")
    enter(subject, *"aa")
    with pytest.raises(QueueFull, match="All 2 waiting places of this caller are taken"):
        subject.enter("a")
    enter(subject, *"bb")
    assert subject.num_open == 6


def test_callers_without_a_name_share_the_common_limit_only() -> None:
    subject = places()
    enter(subject, *[""] * 6)
    with pytest.raises(QueueFull, match="All 4 waiting places are taken"):
        subject.enter("")


def test_whoever_leaves_or_begins_makes_room() -> None:
    subject = places(max_batch=1, max_waiting=1, per_caller=1)
    enter(subject, *"ab")
    assert subject.refusal("c") is not None
    subject.began("a")
    assert subject.refusal("c") is not None  # the batch place was counted as free before
    subject.leave("a", was_running=True)
    assert subject.refusal("c") is None
    subject.leave("b", was_running=False)
    assert subject.num_open == 0


def test_a_preempted_sequence_waits_again() -> None:
    subject = places(max_batch=2, max_waiting=4, per_caller=1)
    enter(subject, *"ab")
    subject.began("a")
    subject.began("b")
    subject.paused("b")
    subject.leave("b", was_running=False)
    subject.leave("a", was_running=True)
    assert subject.num_open == 0
    with pytest.raises(AssertionError):
        subject.paused("b")


@pytest.mark.parametrize(("turn_s", "expected"), [(None, 1), (0.2, 1), (3.4, 4), (90.0, 90)])
def test_retry_after_is_when_the_next_place_is_expected(turn_s: float | None, expected: int) -> None:
    subject = places(max_batch=1, max_waiting=0, turn_s=turn_s)
    subject.enter("")
    refusal = subject.refusal("")
    assert refusal is not None
    assert refusal.retry_after_s == expected


def test_a_caller_over_its_own_limit_waits_for_its_turn() -> None:
    subject = places(max_batch=1, max_waiting=9, per_caller=1, turn_s=10.0)
    enter(subject, *"abcd")
    subject.began("a")
    refusal = subject.refusal("b")
    assert refusal is not None
    assert refusal.retry_after_s == 30  # b, c and d take turns


def test_limits_hold_under_parallel_entries() -> None:
    subject = places(max_batch=3, max_waiting=20, per_caller=5)

    def try_to_enter(at: int) -> bool:
        try:
            subject.enter("abcdef"[at % 6])
        except QueueFull:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        entered = sum(pool.map(try_to_enter, range(600)))
    assert entered == subject.num_open == 23
