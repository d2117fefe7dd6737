"""How a drafter chooses its tokens: the most likely one, or one drawn, with the distribution it came from."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.chance import draw, most_likely

GREEDY_BELOW = 1e-5  # temperatures under this mean the most likely token


def choose(
    logits: Tensor, temperatures: Tensor | None, points: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """An index a row of `logits` [R, V] float32, and the distribution [R, V] it was drawn from.

    `temperatures` [R] and `points` [R]; both None where every row takes its most likely index, which
    needs no distribution. In a mixed batch the greedy rows get a distribution of one point.
    """
    best = most_likely(logits)
    if temperatures is None or points is None:
        return best, None
    is_greedy = (temperatures < GREEDY_BELOW).unsqueeze(1)  # [R, 1]
    scaled = logits / torch.where(is_greedy, 1.0, temperatures.unsqueeze(1))
    certain = torch.zeros_like(logits).scatter_(1, best.unsqueeze(1), 1.0)
    probs = torch.where(is_greedy, certain, scaled.softmax(dim=-1))
    return draw(probs, points), probs
