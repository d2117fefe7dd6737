from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.sequence import Sequence
from engine.waiting import WaitingQueue
from tests.engine.toy import make_sequence


def queue_of(*names: str) -> tuple[WaitingQueue, dict[str, Sequence]]:
    """A queue of sequences whose first letter is their caller."""
    queue, sequences = WaitingQueue(), {name: make_sequence(name, [1], caller=name[0]) for name in names}
    for sequence in sequences.values():
        queue.add(sequence)
    return queue, sequences


def order(queue: WaitingQueue) -> list[str]:
    return [sequence.id for sequence in queue]


def test_callers_take_turns_and_each_ones_own_stay_in_order() -> None:
    queue, _ = queue_of("a1", "a2", "a3", "a4", "b1", "b2", "c1")
    assert order(queue) == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


def test_a_newcomer_comes_before_the_second_of_a_busy_caller() -> None:
    queue, sequences = queue_of("a1", "a2", "a3")
    queue.take(sequences["a1"])
    queue.add(make_sequence("b1", [1], caller="b"))
    queue.take(sequences["a2"])
    assert order(queue) == ["b1", "a3"]


def test_preempted_ones_come_first_longest_admitted_first() -> None:
    queue, sequences = queue_of("a1", "a2", "b1")
    for name in ("a1", "b1"):
        queue.take(sequences[name])
    queue.put_back(sequences["b1"])  # the youngest is preempted first
    queue.put_back(sequences["a1"])
    assert order(queue) == ["a1", "b1", "a2"]
    queue.remove(sequences["a1"])
    queue.take(sequences["b1"])
    assert order(queue) == ["a2"]


def test_nobody_is_taken_out_of_turn() -> None:
    queue, sequences = queue_of("a1", "a2")
    with pytest.raises(AssertionError):
        queue.take(sequences["a2"])
    with pytest.raises(ValueError, match=r"not in deque"):
        queue.remove(make_sequence("z1", [1], caller="z"))
    assert len(queue) == 2


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.lists(st.integers(0, 3), max_size=30))
def test_the_order_shown_is_the_order_taken(callers: list[str], removals: list[int]) -> None:
    queue, sequences = queue_of(*(f"{caller}{at}" for at, caller in enumerate(callers)))
    for at in removals:
        name = next((name for name in order(queue)[at : at + 1]), None)
        if name is not None:
            queue.remove(sequences[name])
    expected = order(queue)
    taken = []
    while len(queue):
        sequence = next(iter(queue))
        queue.take(sequence)
        taken.append(sequence.id)
    assert taken == expected
    for caller in "abcd":
        own = [name for name in taken if name[0] == caller]
        assert own == sorted(own, key=lambda name: int(name[1:]))
    for early, late in pairwise(taken):  # nobody twice in a row while another waits
        if early[0] == late[0]:
            assert {name[0] for name in taken[taken.index(late) :]} == {late[0]}
