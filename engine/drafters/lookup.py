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


@dataclass(frozen=True, slots=True)
class PromptLookup:
    """Looks for the longest repeated ending of `longest` down to `shortest` tokens in the last `window`."""

    num_slots: int = 7
    longest: int = 3
    shortest: int = 1
    window: int = 8192  # bounds the search to some ten microseconds a sequence
    target_layer_ids: tuple[int, ...] = ()
    reads_last_hidden: bool = False
    context: None = None

    def extend(self, rows: ContextRows, cache: DraftCache) -> None:
        """Nothing is kept: the tokens themselves are the memory."""

    def propose(self, batch: DraftBatch, cache: DraftCache) -> Proposal:
        found = [self.continuation(history) for history in batch.histories]
        padded = [tokens + [0] * (self.num_slots - len(tokens)) for tokens in found]
        device = batch.anchors.device
        token_ids = torch.tensor(padded, dtype=torch.long, device=device).view(len(found), self.num_slots)
        lengths = torch.tensor([len(tokens) for tokens in found], device=device)
        return Proposal(token_ids, torch.minimum(lengths, lengths_to_stop(token_ids, batch.stop_ids)))

    def continuation(self, history: Ordered[int]) -> list[int]:
        """`num_slots` tokens; none where the last `shortest` tokens have not stood before."""
        tokens = np.asarray(history[-self.window :], dtype=np.int64)
        ends = np.flatnonzero(tokens[:-1] == tokens[-1])  # where the last token stood before
        best = -1
        for size in range(1, self.longest + 1):
            if size > 1:
                ends = ends[ends >= size - 1]
                ends = ends[tokens[ends - size + 1] == tokens[-size]]
            if len(ends) == 0:
                break
            if size >= self.shortest:
                best = int(ends[-1])
        if best < 0:
            return []
        # Where the text before runs out, what was copied is copied again: a loop keeps its period.
        following = tokens[best + 1 :]
        repeated: list[int] = np.resize(following, self.num_slots).tolist()
        return repeated
