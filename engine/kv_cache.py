"""Paged keys and values: which blocks are free, and the memory they stand for.

A block holds `BLOCK_TOKENS` consecutive tokens of one sequence in every layer. The allocator deals in
block numbers only; the cache owns the tensors and turns positions into slots. Neither knows when a
sequence may have a block: that is the scheduler's decision.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BLOCK_TOKENS = 16


def num_blocks_for(num_tokens: int) -> int:
    return -(-num_tokens // BLOCK_TOKENS)


class BlockAllocator:
    """Hands out block numbers and takes them back; most recently freed first, while it is warm."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._used: set[int] = set()

    @property
    def num_free(self) -> int:
        return len(self._free)

    def allocate(self, count: int) -> list[int]:
        assert count <= len(self._free), "the scheduler promised more blocks than there are"
        blocks = [self._free.pop() for _ in range(count)]
        self._used.update(blocks)
        return blocks

    def free(self, blocks: list[int]) -> None:
        for block in blocks:
            self._used.remove(block)  # KeyError: freed twice, or never allocated
            self._free.append(block)


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
        self._layers = [_zeros(shape, dtype, device) for _ in range(num_layers)]
        self._blocks = [layer.view(num_blocks, BLOCK_TOKENS, -1, head_dim) for layer in self._layers]

    def write(self, layer: int, slots: Tensor, keys_values: Tensor) -> None:
        """Store `keys_values` [rows, 2 * kv_heads, head_dim] at `slots` [rows]."""
        self._layers[layer].index_copy_(0, slots, keys_values)

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
