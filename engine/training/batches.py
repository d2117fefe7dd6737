"""Which conversations and anchors each step learns from: a function of the seed and the step alone.

In: answers and their features. Out: `Batch` by step. Conversations held out are never among them.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.drafters.draws import GREEDY_BELOW
from engine.errors import StartError
from engine.training import anchors
from engine.training.answers import Answers
from engine.training.features import FeatureStore
from engine.training.modules import Batch, Span


def split(answers: Answers, held_out_per_domain: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Conversations to learn from, and those held out: of each domain that many, at temperature 0.

    Those with the prompt of one held out are in neither. StartError where none is left to learn from.
    """
    usable = np.array([one for one in range(len(answers)) if _num_anchors(answers, one) > 0], dtype=np.int64)
    shuffled = np.random.default_rng([seed, 1]).permutation(usable)
    greedy = shuffled[answers.temperature[shuffled] < GREEDY_BELOW]
    held_out = [
        int(one)
        for domain in np.unique(answers.domain)
        for one in greedy[answers.domain[greedy] == domain][:held_out_per_domain]
    ]
    prompts = [tokens[:length].tobytes() for tokens, length in zip(answers, answers.prompt_len, strict=True)]
    asked = {prompts[one] for one in held_out}
    learnt = [one for one in usable if prompts[one] not in asked]
    if not learnt:
        raise StartError(f"of {len(answers)} answers, {len(held_out)} held out, none is left to learn from")
    return np.array(learnt), np.array(sorted(held_out), dtype=np.int64)


def num_anchors(answers: Answers, conversations: np.ndarray) -> int:
    """Anchors there are in these conversations."""
    return sum(_num_anchors(answers, int(one)) for one in conversations)


@dataclass(frozen=True, slots=True)
class Batches:
    """What every process learns from. `rank` of `num_processes`."""

    answers: Answers
    store: FeatureStore
    conversations: np.ndarray
    num_slots: int
    per_step: int
    anchors_each: int
    seed: int
    rank: int = 0
    num_processes: int = 1

    def step(self, step: int) -> Batch:
        """This process's part of a step, counted from 0."""
        first = (step * self.num_processes + self.rank) * self.per_step
        chosen = [self._conversation(place) for place in range(first, first + self.per_step)]
        noise = torch.Generator().manual_seed((self.seed * 1_000_003 + step) * 1_009 + self.rank)
        return self.of(chosen, self.anchors_each, noise)

    def _conversation(self, place: int) -> int:
        epoch, at = divmod(place, len(self.conversations))
        order = np.random.default_rng([self.seed, 2, epoch]).permutation(len(self.conversations))
        return int(self.conversations[order[at]])

    def of(
        self, conversations: Ordered[int], most: int | None, noise: torch.Generator | None = None
    ) -> Batch:
        """These conversations, with at most `most` anchors each; all of them where it is None."""
        answers, device = self.answers, self.store.model.device
        parts: list[tuple[Tensor, ...]] = []
        spans: list[Span] = []
        num_tokens = total = 0
        for one, features in zip(conversations, self.store.get(conversations), strict=True):
            first, last = answers.offsets[one : one + 2]
            token_ids = torch.from_numpy(answers.tokens[first:last].astype(np.int64))
            positions = torch.arange(len(token_ids))
            in_answer = positions >= int(answers.prompt_len[one])
            chosen = anchors.candidates(in_answer)
            if most is not None and noise is not None:
                chosen = anchors.draw(chosen, most, noise)
            labels, counts = anchors.labels(token_ids, in_answer, chosen, self.num_slots)
            computed = features.layers, features.last_hidden, features.log_norms
            parts.append((token_ids, positions, *computed, chosen + num_tokens, labels, counts))
            spans.append(
                Span(slice(num_tokens, num_tokens + len(token_ids)), slice(total, total + len(chosen)))
            )
            num_tokens, total = num_tokens + len(token_ids), total + len(chosen)
        return Batch(tuple(spans), *(torch.cat(column).to(device) for column in zip(*parts, strict=True)))


def _num_anchors(answers: Answers, conversation: int) -> int:
    length = int(answers.offsets[conversation + 1] - answers.offsets[conversation])
    return max(0, length - int(answers.prompt_len[conversation]) - 1)
