"""A drafter that has been told the answers: it drafts them right, wrong, or half right, as chance has it.

What a trained drafter does in months, a test sees in a second: rounds of every length, ends inside
blocks, proposals that nobody can use.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from collections.abc import Sequence as Ordered

import torch

from engine.drafters.base import ContextRows, DraftBatch, Proposal
from engine.drafters.context import ContextShape, DraftCache


class Guesses:
    """Drafts from `answers`, given by prompt: `least` tokens or more, each right with probability `skill`."""

    target_layer_ids: tuple[int, ...] = ()
    reads_last_hidden = False
    context: ContextShape | None = None

    def __init__(
        self,
        answers: Mapping[tuple[int, ...], Ordered[int]],
        *,
        skill: float,
        num_slots: int = 7,
        least: int = 0,
    ) -> None:
        self.answers, self.skill, self.num_slots, self.least = answers, skill, num_slots, least
        self._random = random.Random(3)

    def extend(self, rows: ContextRows, cache: DraftCache) -> None:
        raise AssertionError("it keeps nothing")

    def propose(self, batch: DraftBatch, cache: DraftCache) -> Proposal:
        drafts = [self._guess(list(history)) for history in batch.histories]
        lengths = [self._random.randint(self.least, self.num_slots) for _ in drafts]
        return Proposal(torch.tensor(drafts), torch.tensor(lengths))

    def _guess(self, history: list[int]) -> list[int]:
        right: list[int] = []
        for prompt, answer in self.answers.items():
            whole = [*prompt, *answer]
            if whole[: len(history)] == history:
                right = whole[len(history) :]
        right += [0] * self.num_slots
        return [
            token if self._random.random() < self.skill else self._random.randrange(256)
            for token in right[: self.num_slots]
        ]
