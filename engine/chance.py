"""Chance: seeded numbers in independent streams, and draws from distributions.

A number depends on the request's seed, the stream and the token's place in the answer only, never on
the batch. So a seed gives the same answer again under any load; with a drafter that draws its tokens,
wherever its proposals have the same lengths: other lengths use other numbers, for the same distribution.
A place may be drafted in several rounds, each with numbers of its own (`engine.drafters.batches`); it is
tested in one of them.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from enum import Enum

import numpy as np
import torch
from torch import Tensor


class Stream(Enum):
    """What a number is for. The values only have to differ."""

    DRAFT = 0xA0761D6478BD642F
    ACCEPT = 0xE7037ED1A0B428DB
    NEXT = 0x8EBC6AF09C88C6E3  # the target's own tokens, with drafts or without


def stream_uniforms(
    stream: Stream, seeds: Ordered[int], first_places: Ordered[int], count: int, device: torch.device
) -> Tensor:
    """Numbers in (0, 1) for `count` consecutive places of each sequence: [B, count] float64."""
    starts = np.array(first_places, dtype=np.uint64)[:, None]
    places = starts + np.arange(count, dtype=np.uint64)  # [B, count]
    keyed = np.array(seeds, dtype=np.uint64)[:, None] ^ np.uint64(stream.value)
    return torch.from_numpy(uniforms(np.broadcast_to(keyed, places.shape), places)).to(device)


def most_likely(logits: Tensor) -> Tensor:
    """The first index of the largest value in each row of `logits` [R, V]; by blocks, as in `draw`."""
    blocks = _in_blocks(logits)
    block = blocks.amax(dim=-1).argmax(dim=-1)  # [R]
    inside = blocks[torch.arange(len(logits), device=logits.device), block]  # [R, width]
    return block * blocks.shape[2] + inside.argmax(dim=-1)


def draw(probs: Tensor, points: Tensor) -> Tensor:
    """One index a row of `probs` [R, V], which need not sum to 1, by inversion at `points` [R] in (0, 1).

    Summed by blocks first, since a running sum over a whole vocabulary takes ten times as long.
    """
    blocks = _in_blocks(probs)
    upto = blocks.sum(dim=-1).cumsum(dim=-1, dtype=torch.float64)  # [R, blocks]
    wanted = points.to(torch.float64).unsqueeze(1) * upto[:, -1:]
    block = torch.searchsorted(upto, wanted, right=True)  # [R, 1], never one of no mass
    before = upto.gather(1, (block - 1).clamp_min(0)).masked_fill(block == 0, 0.0)
    share = ((wanted - before) / (upto.gather(1, block) - before)).clamp(0.0, 1.0 - 2.0**-53)
    inside = blocks[torch.arange(len(probs), device=probs.device), block.squeeze(1)]  # [R, width]
    upto = inside.cumsum(dim=-1, dtype=torch.float64)
    return (block * blocks.shape[2] + torch.searchsorted(upto, share * upto[:, -1:], right=True)).squeeze(1)


def _in_blocks(rows: Tensor) -> Tensor:
    """[R, V] as [R, V / width, width] with a power of two that divides V."""
    vocab_size = rows.shape[1]
    return rows.reshape(len(rows), -1, min(vocab_size & -vocab_size, 256))


def uniforms(seeds: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A number in (0, 1) for each (seed, place), the same on every machine: SplitMix64, used as a counter.

    48 bits and a half, so that neither 0 nor a product rounded up to the total can come out.
    """
    mixed = _mix(_mix(seeds) + places * np.uint64(0x9E3779B97F4A7C15))
    return ((mixed >> np.uint64(16)).astype(np.float64) + 0.5) / float(1 << 48)


def _mix(state: np.ndarray) -> np.ndarray:
    """SplitMix64's output function, on uint64 with wrap-around."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
