from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.kv_cache import BLOCK_TOKENS, KVCache, num_blocks_for, slot_of


@given(st.integers(0, 10_000))
def test_blocks_for_tokens_are_just_enough(num_tokens: int) -> None:
    blocks = num_blocks_for(num_tokens)
    assert (blocks - 1) * BLOCK_TOKENS < num_tokens <= blocks * BLOCK_TOKENS


def test_what_is_written_to_scattered_blocks_is_read_in_order() -> None:
    cache = KVCache(
        2, num_blocks=6, num_kv_heads=2, head_dim=4, dtype=torch.float32, device=torch.device("cpu")
    )
    block_ids = [4, 1, 3]
    written = torch.randn(40, 4, 4)  # [tokens, keys and values of 2 heads, head_dim]
    slots = torch.tensor([slot_of(block_ids, position) for position in range(40)])
    cache.write(1, slots, written)
    keys, values = cache.read(1, torch.tensor(block_ids), batch=1)
    assert torch.equal(keys[0, :, :40], written[:, :2].transpose(0, 1))
    assert torch.equal(values[0, :, :40], written[:, 2:].transpose(0, 1))
    untouched, _ = cache.read(0, torch.tensor(block_ids), batch=1)
    assert not untouched.any()
