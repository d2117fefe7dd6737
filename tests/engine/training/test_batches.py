"""What is learnt from and what is held out."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import StartError
from engine.training.answers import Answers, Conversation
from engine.training.batches import num_anchors, split


def conversation(prompt: int, temperature: float, domain: int, length: int = 6) -> Conversation:
    return Conversation([prompt, 1, *range(10, 10 + length)], 2, temperature, domain, 0)


def test_greedy_answers_of_every_domain_are_held_out_with_all_others_to_their_prompts() -> None:
    made = [conversation(prompt, heat, prompt % 3) for prompt in range(9) for heat in (0.0, 1.0)]
    answers = Answers.of(made)
    learnt, held_out = split(answers, 2, seed=1)
    assert sorted(answers.domain[held_out].tolist()) == [0, 0, 1, 1, 2, 2]
    assert not answers.temperature[held_out].any()
    firsts = [int(tokens[0]) for tokens in answers]
    assert {firsts[one] for one in held_out} == set(range(9)) - {firsts[one] for one in learnt}
    assert len(learnt) == 6
    assert num_anchors(answers, learnt) == 6 * 5


def test_answers_of_one_token_are_neither_learnt_nor_held_out() -> None:
    answers = Answers.of(
        [conversation(0, 0.0, 0, length=1), conversation(1, 0.0, 0), conversation(2, 1.0, 0)]
    )
    learnt, held_out = split(answers, 5, seed=1)
    assert (learnt.tolist(), held_out.tolist()) == ([2], [1])


def test_nothing_left_to_learn_from_is_told() -> None:
    with pytest.raises(StartError, match="none is left"):
        split(Answers.of([conversation(0, 0.0, 0)]), 1, seed=1)


def test_the_split_depends_on_the_seed_alone() -> None:
    answers = Answers.of([conversation(prompt, 0.0, 0) for prompt in range(30)])
    first, again, other = (split(answers, 5, seed)[1] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
