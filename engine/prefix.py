"""The prefix cache: sequences that begin alike share the blocks of what they have in common.

A full block is named by a digest of its parent's digest and its own token ids, so equal names mean equal
tokens from the first on. Only full blocks are shared, and nobody writes into a full block; a sequence
therefore never sees another one's writes, and there is nothing to copy.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b

from engine.blocks import BlockAllocator
from engine.kv_cache import BLOCK_TOKENS, num_blocks_for
from engine.sequence import Sequence

_DIGEST_BYTES = 16  # cryptographic, so that no caller can make up a prompt that hits another one's blocks


def block_digest(parent: bytes, token_ids: list[int]) -> bytes:
    """The name of a full block after the block named `parent` (empty for the first one)."""
    return blake2b(parent + array("q", token_ids).tobytes(), digest_size=_DIGEST_BYTES).digest()


def digests_of(sequence: Sequence, num_blocks: int) -> list[bytes]:
    """Names of its first `num_blocks` full blocks; kept in the sequence, as tokens are only ever added."""
    known = sequence.block_digests
    for index in range(len(known), num_blocks):
        ids = sequence.token_ids(index * BLOCK_TOKENS, BLOCK_TOKENS)
        known.append(block_digest(known[-1] if known else b"", ids))
    return known[:num_blocks]


def find_prefix(sequence: Sequence, allocator: BlockAllocator) -> list[int]:
    """Blocks it could share instead of computing them; at least its last token is left to compute."""
    return allocator.find(digests_of(sequence, (sequence.num_tokens - 1) // BLOCK_TOKENS))


def take_prefix(sequence: Sequence, allocator: BlockAllocator, blocks: list[int]) -> None:
    """Begin with `blocks`, as `find_prefix` found them."""
    assert not sequence.block_ids, "a prefix is the beginning"
    allocator.share(blocks)
    sequence.block_ids = list(blocks)
    sequence.num_computed = len(blocks) * BLOCK_TOKENS
    sequence.num_published = len(blocks)


def publish_full_blocks(sequence: Sequence, allocator: BlockAllocator) -> None:
    """Let others find the blocks that it has filled. Call it only after a step that succeeded."""
    num_full = sequence.num_computed // BLOCK_TOKENS
    if num_full == sequence.num_published:
        return
    digests = digests_of(sequence, num_full)
    for index in range(sequence.num_published, num_full):
        sequence.block_ids[index] = allocator.publish(sequence.block_ids[index], digests[index])
    sequence.num_published = num_full


def trim(sequence: Sequence, allocator: BlockAllocator) -> None:
    """Give back the blocks that only rejected drafts were to use."""
    surplus = sequence.block_ids[num_blocks_for(sequence.num_tokens) :]
    if surplus:
        allocator.free(surplus)
        del sequence.block_ids[-len(surplus) :]


def release(sequence: Sequence, allocator: BlockAllocator) -> None:
    """Let go of all blocks. What was published stays findable; everything is pending again."""
    allocator.free(sequence.block_ids)
    sequence.block_ids = []
    sequence.num_computed = 0
    sequence.num_published = 0
