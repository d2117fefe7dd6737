"""Where drafting may begin, and which labels count."""

from __future__ import annotations

import torch

from engine.training import anchors

IN_ANSWER = torch.tensor([0, 0, 1, 1, 1, 0, 1, 1, 0, 1], dtype=torch.bool)


def test_an_anchor_has_a_token_of_the_answer_after_it() -> None:
    assert anchors.candidates(IN_ANSWER).tolist() == [2, 3, 6]


def test_labels_count_up_to_the_first_token_that_is_no_answers() -> None:
    token_ids = torch.arange(10) + 100
    labels, counts = anchors.labels(token_ids, IN_ANSWER, torch.tensor([2, 3, 6]), 3)
    assert counts.tolist() == [[True, True, False], [True, False, False], [True, False, False]]
    assert labels[counts].tolist() == [103, 104, 104, 107]


def test_labels_end_with_the_conversation() -> None:
    token_ids = torch.arange(5)
    _, counts = anchors.labels(token_ids, torch.ones(5, dtype=torch.bool), torch.tensor([2]), 4)
    assert counts.tolist() == [[True, True, False, False]]


def test_anchors_are_drawn_without_replacement_and_in_order() -> None:
    positions = torch.arange(100, 140)
    drawn = anchors.draw(positions, 10, torch.Generator().manual_seed(3))
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    assert len(drawn) == 10
    assert set(drawn.tolist()) <= set(positions.tolist())
    assert not torch.equal(drawn, anchors.draw(positions, 10, torch.Generator().manual_seed(4)))
    assert torch.equal(anchors.draw(positions, 40, torch.Generator()), positions)
