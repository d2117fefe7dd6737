"""The drafters' memory: context rows in blocks that carry the target's block numbers.

A sequence's block table serves both caches, so prefix reuse, eviction and preemption of the target's
blocks hold for these too. Knows nothing of what a drafter computes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kv_cache import BLOCK_TOKENS, KVCache


@dataclass(frozen=True, slots=True)
class ContextShape:
    """What one position takes: keys and values of each draft layer, and a vector for the row after it."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    carry_size: int = 0


class DraftCache:
    """Context rows of every sequence. Without a shape it is empty: the drafter keeps nothing."""

    def __init__(
        self, shape: ContextShape | None, num_blocks: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.shape = shape or ContextShape(0, 1, 1)
        self._rows = KVCache(
            self.shape.num_layers, num_blocks, self.shape.num_kv_heads, self.shape.head_dim, dtype, device
        )
        self._carries = torch.zeros(
            (num_blocks * BLOCK_TOKENS, self.shape.carry_size), dtype=dtype, device=device
        )

    @property
    def layers(self) -> list[Tensor]:
        """The memory of each draft layer's keys and values."""
        return self._rows.layers

    def write(self, layer: int, slots: Tensor, keys_values: Tensor) -> None:
        """Store `keys_values` [N, 2 * kv_heads, head_dim] of rows at `slots` [N]."""
        self._rows.write(layer, slots, keys_values)

    def read(self, layer: int, block_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, kv_heads, blocks * BLOCK_TOKENS, head_dim] of the blocks [B, blocks]."""
        return self._rows.read(layer, block_ids.reshape(-1), len(block_ids))

    def write_carries(self, slots: Tensor, carries: Tensor) -> None:
        """Store `carries` [N, carry_size]: what each row leaves for the row after it."""
        self._carries.index_copy_(0, slots, carries)

    def read_carries(self, slots: Tensor) -> Tensor:
        """The carries [N, carry_size] stored at `slots` [N]."""
        return self._carries.index_select(0, slots)


def slots_at(block_ids: Tensor, positions: Tensor) -> Tensor:
    """Where the rows at `positions` [B] of the sequences with these tables [B, blocks] are stored: [B]."""
    blocks = block_ids.gather(1, (positions // BLOCK_TOKENS).unsqueeze(1)).squeeze(1)
    return blocks * BLOCK_TOKENS + positions % BLOCK_TOKENS
