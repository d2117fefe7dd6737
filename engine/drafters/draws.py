"""Chance in speculative decoding: three independent seeded streams, and draws from distributions.

A number depends on the request's seed, the stream and the token's place in the answer only, never on
the batch. So a seed gives the same answer again wherever its proposals have the same lengths; other
lengths use other numbers, for the same distribution. A place may be drafted in several rounds, with the
same number; that is sound, because only the draft that is tested can shape the answer, and a place is
tested once.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from enum import Enum

import numpy as np
import torch
from torch import Tensor

from engine.sampler import uniforms

GREEDY_BELOW = 1e-5  # temperatures under this mean the most likely token


class Stream(Enum):
    """What a number is for. The values only have to differ."""

    DRAFT = 0xA0761D6478BD642F
    ACCEPT = 0xE7037ED1A0B428DB
    NEXT = 0x8EBC6AF09C88C6E3


def stream_uniforms(
    stream: Stream, seeds: Ordered[int], first_places: Ordered[int], count: int, device: torch.device
) -> Tensor:
    """Numbers in (0, 1) for `count` consecutive places of each sequence: [B, count] float64."""
    starts = np.array(first_places, dtype=np.uint64)[:, None]
    places = starts + np.arange(count, dtype=np.uint64)  # [B, count]
    keyed = np.array(seeds, dtype=np.uint64)[:, None] ^ np.uint64(stream.value)
    return torch.from_numpy(uniforms(np.broadcast_to(keyed, places.shape), places)).to(device)


def draw(probs: Tensor, points: Tensor) -> Tensor:
    """One index a row of `probs` [R, V], which need not sum to 1, by inversion at `points` [R] in (0, 1)."""
    cumulative = probs.cumsum(dim=-1, dtype=torch.float64)
    wanted = points.to(torch.float64).unsqueeze(1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, wanted, right=True).squeeze(1)


def choose(
    logits: Tensor, temperatures: Tensor | None, points: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """An index a row of `logits` [R, V] float32, and the distribution [R, V] it was drawn from.

    `temperatures` [R] and `points` [R]; both None where every row takes its most likely index, which
    needs no distribution. In a mixed batch the greedy rows get a distribution of one point.
    """
    best = logits.argmax(dim=-1)
    if temperatures is None or points is None:
        return best, None
    is_greedy = (temperatures < GREEDY_BELOW).unsqueeze(1)  # [R, 1]
    scaled = logits / torch.where(is_greedy, 1.0, temperatures.unsqueeze(1))
    certain = torch.zeros_like(logits).scatter_(1, best.unsqueeze(1), 1.0)
    probs = torch.where(is_greedy, certain, scaled.softmax(dim=-1))
    return draw(probs, points), probs
