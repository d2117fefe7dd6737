"""Prompt lookup: what it proposes, and that it never says no to a loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.drafters.batches import Anchor, draft_batch
from engine.drafters.context import DraftCache
from engine.drafters.lookup import PromptLookup

CPU = torch.device("cpu")


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
    assert PromptLookup(num_slots=3).continuation(history) == expected


def test_shortest_asks_for_more_evidence() -> None:
    lookup = PromptLookup(num_slots=2, shortest=2)
    assert lookup.continuation([1, 5, 6, 5]) == []
    assert lookup.continuation([1, 5, 6, 1, 5]) == [6, 1]


def test_only_the_window_is_searched() -> None:
    assert PromptLookup(num_slots=1, window=3).continuation([7, 8, 1, 2, 7]) == []


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 3))
def test_against_a_search_of_every_place(history: list[int], shortest: int) -> None:
    expected: list[int] = []
    for size in range(3, shortest - 1, -1):
        ending = history[-size:]
        places = [at for at in range(len(history) - size) if history[at : at + size] == ending]
        if len(ending) == size and places:
            follows = history[places[-1] + size :]
            expected = (follows * 4)[:4]
            break
    assert PromptLookup(num_slots=4, shortest=shortest).continuation(history) == expected


def test_a_batch_has_lengths_of_its_own_and_stops_at_stop_tokens() -> None:
    lookup = PromptLookup(num_slots=3)
    histories = [[1, 2, 3, 1], [5, 6], [0, 2, 0]]
    anchors = [Anchor(history, [], 0.0, 0, 1, frozenset({3, 0})) for history in histories]
    proposal = lookup.propose(draft_batch(anchors, 3, CPU), DraftCache(None, 1, torch.float32, CPU))
    assert proposal.lengths.tolist() == [2, 0, 2]
    assert proposal.token_ids[0].tolist() == [2, 3, 1]
    assert proposal.draft_probs is None
