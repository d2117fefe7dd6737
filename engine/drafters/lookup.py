"""Prompt lookup: what followed the last tokens when they stood in the text before.

It has no weights and keeps nothing; proposals are certain, so verification gives what it takes from the
target alone. Good where answers repeat their prompt: edits, quotations, structured output.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass

import numpy as np
import torch

from engine.drafters.base import ContextRows, DraftBatch, Proposal, lengths_to_stop
from engine.drafters.context import DraftCache

# How often a token repeats too, after 0, 1, 2, ... tokens that did; the last for all longer runs. From 3,000
# answers of the bundled model to chat, math and code, half of them sampled at T = 1, a quarter greedy.
_REPEAT_RATES = (
    *(0.001, 0.185, 0.423, 0.518, 0.599, 0.648, 0.699, 0.743, 0.778, 0.785, 0.815, 0.820, 0.841),
    *(0.853, 0.857, 0.875, 0.885, 0.888, 0.898, 0.903, 0.908, 0.913, 0.918, 0.925, 0.980),
)
_REPEAT_LOGITS = torch.logit(torch.tensor(_REPEAT_RATES))
_LONGEST_RUN = len(_REPEAT_RATES) - 1
_MOST_PLACES = 256  # the newest at which the last token stood before are looked at


@dataclass(frozen=True, slots=True)
class Match:
    """What stood after the last `run` tokens where they stood before; none where they had not."""

    token_ids: list[int]
    run: int  # counted up to the longest that makes a difference


@dataclass(frozen=True, slots=True)
class PromptLookup:
    """Looks for the longest repeated ending of `longest` down to `shortest` tokens in the last `window`.

    Among equally long ones the newest counts. Its confidence in a slot is how often, measured once, text
    goes on repeating after as many repeated tokens, those of the slots before included.
    """

    num_slots: int = 7
    longest: int = 5
    shortest: int = 1
    window: int = 8192  # bounds the search to some ten microseconds a sequence
    target_layer_ids: tuple[int, ...] = ()
    reads_last_hidden: bool = False
    context: None = None

    def extend(self, rows: ContextRows, cache: DraftCache) -> None:
        """Nothing is kept: the tokens themselves are the memory."""

    def propose(self, batch: DraftBatch, cache: DraftCache) -> Proposal:
        matches = [self.match(history) for history in batch.histories]
        padded = [one.token_ids or [0] * self.num_slots for one in matches]
        device = batch.anchors.device
        token_ids = torch.tensor(padded, device=device)
        lengths = torch.tensor([len(one.token_ids) for one in matches], device=device)
        runs = torch.tensor([one.run for one in matches]).unsqueeze(1) + torch.arange(self.num_slots)
        return Proposal(
            token_ids=token_ids,
            lengths=torch.minimum(lengths, lengths_to_stop(token_ids, batch.stop_ids)),
            confidence_logits=_REPEAT_LOGITS[runs.clamp_max(_LONGEST_RUN)].to(device),
        )

    def match(self, history: Ordered[int]) -> Match:
        """`num_slots` tokens, or none. An `array` is read fastest, and may grow as soon as this returns."""
        tokens = np.asarray(history[-self.window :], dtype=np.int64)
        ends = (tokens[:-1] == tokens[-1]).nonzero()[0][-_MOST_PLACES:]  # where the last token stood before
        best = -1
        for size in range(1, self.longest + 1):
            if size > 1:
                ends = ends[int(ends[0] < size - 1) :]  # the one that has no more tokens before it
                ends = ends[tokens[ends - (size - 1)] == tokens[-size]]
            if len(ends) == 0:
                break
            if size >= self.shortest:
                best = int(ends[-1])
        if best < 0:
            return Match([], 0)
        # Where the text before runs out, what was copied is copied again: a loop keeps its period.
        following: list[int] = tokens[best + 1 : best + 1 + self.num_slots].tolist()
        return Match((following * self.num_slots)[: self.num_slots], _run(tokens, best))


def _run(tokens: np.ndarray, end: int) -> int:
    """How many tokens up to `end` are those at the end of `tokens`."""
    count = min(end + 1, _LONGEST_RUN)
    differ = (tokens[end + 1 - count : end + 1] != tokens[len(tokens) - count :]).nonzero()[0]
    return count - 1 - int(differ[-1]) if len(differ) else count
