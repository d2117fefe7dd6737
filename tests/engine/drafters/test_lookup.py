"""Prompt lookup: what it proposes, and that it never says no to a loop."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from collections.abc import Sequence as Ordered

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.drafters.base import Proposal
from engine.drafters.batches import Anchor, draft_batch
from engine.drafters.context import DraftCache
from engine.drafters.lookup import PromptLookup

CPU = torch.device("cpu")


def propose(lookup: PromptLookup, *histories: Ordered[int], stop_ids: tuple[int, ...] = ()) -> Proposal:
    anchors = [Anchor(history, [], 0.0, 0, 1, frozenset(stop_ids)) for history in histories]
    cache = DraftCache(None, 1, torch.float32, CPU)
    return lookup.propose(draft_batch(anchors, lookup.num_slots, CPU), cache)


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([1, 2, 3, 4, 5, 9, 2, 3], [4, 5, 9]),  # two tokens repeat
        ([1, 2, 3, 7, 5, 2, 3, 8, 1, 2, 3], [7, 5, 2]),  # three repeat: the longer match, not the later
        ([3, 7, 7, 3, 8, 8, 3], [8, 8, 3]),  # equally long matches: the later
        ([4, 4], [4, 4, 4]),  # a loop keeps its period
        ([5, 1, 2, 1, 2], [1, 2, 1]),
        ([1, 2, 3], []),
        ([1], []),
    ],
)
def test_the_continuation_of_the_longest_repeated_ending(history: list[int], expected: list[int]) -> None:
    assert PromptLookup(num_slots=3).match(history).token_ids == expected


def test_shortest_asks_for_more_evidence() -> None:
    lookup = PromptLookup(num_slots=2, shortest=2)
    assert lookup.match([1, 5, 6, 5]).token_ids == []
    assert lookup.match([1, 5, 6, 1, 5]).token_ids == [6, 1]


def test_only_the_window_is_searched() -> None:
    assert PromptLookup(num_slots=1, window=3).match([7, 8, 1, 2, 7]).token_ids == []


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 3))
def test_against_a_search_of_every_place(history: list[int], shortest: int) -> None:
    expected: list[int] = []
    for size in range(5, shortest - 1, -1):
        ending = history[-size:]
        places = [at for at in range(len(history) - size) if history[at : at + size] == ending]
        if len(ending) == size and places:
            follows = history[places[-1] + size :]
            expected = (follows * 4)[:4]
            break
    assert PromptLookup(num_slots=4, shortest=shortest).match(history).token_ids == expected


def test_a_long_loop_is_found_at_its_newest_place() -> None:
    assert PromptLookup(num_slots=2).match([1, 2, 3] * 2000).token_ids == [1, 2]


@given(st.lists(st.integers(0, 2), min_size=2, max_size=80))
def test_a_run_is_as_long_as_what_repeats(history: list[int]) -> None:
    """Short alphabets repeat themselves; the newest of the longest matches is where the run is counted."""
    lookup = PromptLookup(num_slots=1, longest=100)
    sizes = [
        size
        for size in range(1, len(history))
        if any(history[at : at + size] == history[-size:] for at in range(len(history) - size))
    ]
    assert lookup.match(history).run == min(max(sizes, default=0), 24)


@pytest.mark.parametrize("kind", [lambda ids: array("q", ids), lambda ids: array("i", ids), np.array])
def test_arrays_are_read_like_lists_and_may_grow_afterwards(
    kind: Callable[[list[int]], Ordered[int]],
) -> None:
    ids = [1, 2, 3, 4, 5, 9, 2, 3]
    history = kind(ids)
    lookup = PromptLookup(num_slots=3)
    first = propose(lookup, history)
    assert first.token_ids.tolist() == propose(lookup, ids).token_ids.tolist()
    if isinstance(history, array):
        history.append(4)
        assert propose(lookup, history).token_ids.tolist() == [[5, 9, 2]]


def test_confidence_rises_with_the_run_and_from_slot_to_slot() -> None:
    short, long = [5, 1, 2, 9, 2], [7, 8, 1, 2, 9, 6, 8, 1, 2]
    logits = propose(PromptLookup(num_slots=4), short, long).confidence_logits
    assert logits is not None
    assert logits.shape == (2, 4)
    assert (logits.diff(dim=1) > 0).all()
    assert (logits[1] > logits[0]).all()
    assert logits[0, 2:].tolist() == logits[1, :2].tolist()  # a run of one and two slots is a run of three
    loop = propose(PromptLookup(num_slots=4), [1, 2] * 40).confidence_logits
    assert loop is not None
    assert (loop.sigmoid() > 0.9).all()


def test_a_batch_has_lengths_of_its_own_and_stops_at_stop_tokens() -> None:
    lookup = PromptLookup(num_slots=3)
    histories = [[1, 2, 3, 1], [5, 6], [0, 2, 0]]
    proposal = propose(lookup, *histories, stop_ids=(3, 0))
    assert proposal.lengths.tolist() == [2, 0, 2]
    assert proposal.token_ids[0].tolist() == [2, 3, 1]
    assert proposal.draft_probs is None
