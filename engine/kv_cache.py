"""Paged keys and values: the memory that blocks stand for.

A block holds `BLOCK_TOKENS` consecutive tokens in every layer. The cache owns the tensors and turns
positions into slots; which blocks are free, and who holds them, is `engine.blocks`' business.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BLOCK_TOKENS = 16


def num_blocks_for(num_tokens: int) -> int:
    return -(-num_tokens // BLOCK_TOKENS)


class KVCache:
    """One tensor a layer, keys and values of a token side by side, so that one write stores both."""

    def __init__(
        self,
        num_layers: int,
        num_blocks: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_blocks = num_blocks
        self.num_kv_heads = num_kv_heads
        shape = (num_blocks * BLOCK_TOKENS, 2 * num_kv_heads, head_dim)
        self.layers = [_zeros(shape, dtype, device) for _ in range(num_layers)]
        self._blocks = [layer.view(num_blocks, BLOCK_TOKENS, -1, head_dim) for layer in self.layers]

    def write(self, layer: int, slots: Tensor, keys_values: Tensor) -> None:
        """Store `keys_values` [rows, 2 * kv_heads, head_dim] at `slots` [rows]."""
        self.layers[layer].index_copy_(0, slots, keys_values)

    def read(self, layer: int, block_ids: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """Gather the blocks [batch * blocks] of a batch: keys, values [batch, kv_heads, tokens, head_dim]."""
        gathered = self._blocks[layer].index_select(0, block_ids)  # [batch * blocks, block, 2 * heads, dim]
        both = gathered.view(batch, -1, *gathered.shape[2:]).transpose(1, 2)  # [B, 2 * kv_heads, tokens, dim]
        return both[:, : self.num_kv_heads], both[:, self.num_kv_heads :]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, not empty: masked positions are read, and a NaN there would survive the mask.

    On a CPU numpy asks the system for zero pages, which cost nothing until a token is stored in them;
    `torch.zeros` would write them all, most of a second at start.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros((*shape[:-1], shape[-1] * dtype.itemsize), np.uint8)).view(dtype)


def slot_of(block_ids: list[int], position: int) -> int:
    """Where the token at `position` of a sequence with these blocks is stored."""
    return block_ids[position // BLOCK_TOKENS] * BLOCK_TOKENS + position % BLOCK_TOKENS
