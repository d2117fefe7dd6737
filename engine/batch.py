"""Lays the planned chunks of a step out as the tensors the model takes.

In: chunks whose sequences already own the blocks they need. Out: a `ForwardBatch`. Chunks of equal
width share one padded attention call when they are short (decoding); a prefill chunk is a group of its
own, so that padding never costs more than it saves. On a CPU keys come in whole tiles: otherwise the bits of
a row would depend on how many there are beyond its own. Pure: changes no sequence.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from itertools import groupby

import torch
from torch import Tensor

from engine.kv_cache import BLOCK_TOKENS, num_blocks_for, slot_of
from engine.model import AttentionGroup, ForwardBatch
from engine.scheduler import Chunk

SHARED_WIDTH = 8  # chunks up to this many rows are batched with their equals
KEY_TILE_BLOCKS = 2  # 32 keys: AMX multiplies so many at once, vectors add up half as many


def in_row_order(chunks: Ordered[Chunk]) -> list[Chunk]:
    """The order in which `build_batch` wants its chunks: by width, older first within one width."""
    return sorted(chunks, key=lambda chunk: chunk.width)


def build_batch(
    chunks: Ordered[Chunk], query_heads_per_kv: int, dtype: torch.dtype, device: torch.device
) -> ForwardBatch:
    """Tensors for `chunks`, which must be `in_row_order`.

    Logits are wanted of each final chunk's last pending token and of its drafted ones.
    """
    token_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    logit_rows: list[int] = []
    groups: list[AttentionGroup] = []
    for width, members in groupby(chunks, key=lambda chunk: chunk.width):
        equals = list(members)
        size = len(equals) if width <= SHARED_WIDTH else 1
        for start in range(0, len(equals), size):
            group = equals[start : start + size]
            groups.append(_build_group(group, len(token_ids), query_heads_per_kv, dtype, device))
            for chunk in group:
                sequence, first = chunk.sequence, chunk.sequence.num_computed
                token_ids += [*sequence.pending_ids(chunk.num_tokens), *chunk.drafted]
                positions += range(first, first + width)
                slots += [slot_of(sequence.block_ids, at) for at in range(first, first + width)]
                if chunk.is_final:
                    logit_rows += range(len(token_ids) - len(chunk.drafted) - 1, len(token_ids))
    return ForwardBatch(
        token_ids=torch.tensor(token_ids, device=device),
        positions=torch.tensor(positions, device=device),
        slots=torch.tensor(slots, device=device),
        groups=tuple(groups),
        logit_rows=torch.tensor(logit_rows, dtype=torch.long, device=device),
    )


def _build_group(
    chunks: list[Chunk], first_row: int, repeats: int, dtype: torch.dtype, device: torch.device
) -> AttentionGroup:
    width = chunks[0].width
    lengths = [chunk.sequence.num_computed + width for chunk in chunks]  # keys seen by the last row
    num_blocks = num_blocks_for(max(lengths))
    on_cpu = device.type == "cpu"
    if on_cpu:
        num_blocks += -num_blocks % KEY_TILE_BLOCKS
    tables = [chunk.sequence.block_ids[:num_blocks] for chunk in chunks]
    padded = [table + [0] * (num_blocks - len(table)) for table in tables]
    # On a GPU a single sequence needs no padding; else all blocks stay whole, masked beyond each end.
    num_keys = lengths[0] if len(chunks) == 1 and not on_cpu else num_blocks * BLOCK_TOKENS
    return AttentionGroup(
        first_row=first_row,
        batch=len(chunks),
        width=width,
        num_keys=num_keys,
        block_ids=torch.tensor(padded, device=device).view(-1),
        mask=_mask(lengths, width, num_keys, repeats, dtype, device),
    )


def _mask(
    lengths: list[int], width: int, num_keys: int, repeats: int, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """0 where a row may look, -inf elsewhere: [batch, 1, repeats * width, num_keys]."""
    if width == 1 and lengths == [num_keys]:
        return None
    ends = torch.tensor(lengths, device=device).view(-1, 1, 1)  # [B, 1, 1]
    last_seen = ends - width + torch.arange(width, device=device).view(1, -1, 1)  # [B, width, 1]
    hidden = torch.arange(num_keys, device=device).view(1, 1, -1) > last_seen  # [B, width, keys]
    mask = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))
    return mask.repeat(1, repeats, 1).unsqueeze(1)
