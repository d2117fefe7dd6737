"""Where drafting may begin in an answer, and what should be drafted there.

In: which tokens of a conversation are the answer's. Out: anchors, and the labels of their slots. An anchor is
a token of the answer with at least one more after it. S = tokens, A = anchors, n = slots.
"""

from __future__ import annotations

import torch
from torch import Tensor


def candidates(in_answer: Tensor) -> Tensor:
    """Positions [C] that may be anchors: `in_answer` [S] holds there and right after."""
    return (in_answer[:-1] & in_answer[1:]).nonzero().squeeze(1)


def draw(positions: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """At most `most` of the positions, uniformly without replacement, in rising order."""
    if len(positions) <= most:
        return positions
    chosen = torch.randperm(len(positions), generator=generator)[:most]
    return positions[chosen.sort().values]


def labels(token_ids: Tensor, in_answer: Tensor, anchors: Tensor, num_slots: int) -> tuple[Tensor, Tensor]:
    """Token ids [A, n] that follow each anchor, and which of them count (bool [A, n]).

    A slot counts while every token up to its label belongs to the answer; other labels mean nothing.
    """
    at = anchors.unsqueeze(1) + torch.arange(1, num_slots + 1, device=anchors.device)  # [A, n]
    inside = at < len(token_ids)
    at = at.clamp_max(len(token_ids) - 1)
    counts = (inside & in_answer[at]).long().cumprod(dim=1).bool()
    return token_ids[at], counts
