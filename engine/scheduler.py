"""Decides what the next step computes: a pure function of the sequences and the free blocks.

Oldest first, always: a sequence may take blocks from younger ones (they are preempted and computed
again later), never from older ones, so the oldest always advances and every request ends. Nothing is
changed here; the loop acts on the returned plan.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.kv_cache import BLOCK_TOKENS, num_blocks_for
from engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Limits:
    """What one step may hold: running sequences, and prefill tokens over all of them."""

    max_batch: int
    prefill_chunk: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """`num_tokens` pending tokens of one sequence, to be computed in this step."""

    sequence: Sequence
    num_tokens: int

    @property
    def is_final(self) -> bool:
        """Whether nothing stays pending, so that a new token can be sampled."""
        return self.num_tokens == self.sequence.num_pending


@dataclass(frozen=True, slots=True)
class Plan:
    """The step: give back the blocks of `preempted`, move `admitted` in, then compute `chunks`."""

    chunks: tuple[Chunk, ...] = ()
    admitted: tuple[Sequence, ...] = ()
    preempted: tuple[Sequence, ...] = ()  # youngest first


def plan_step(
    running: Iterable[Sequence], waiting: Iterable[Sequence], num_free: int, limits: Limits
) -> Plan:
    """Plan one step. `running` and `waiting` are in order of arrival; blocks are counted, not chosen."""
    alive = list(running)
    free, budget, promised = num_free, limits.prefill_chunk, 0
    chunks: list[Chunk] = []
    preempted: list[Sequence] = []
    index = 0
    while index < len(alive):
        sequence = alive[index]
        index += 1
        count = 1 if sequence.num_pending == 1 else min(sequence.num_pending, budget)
        while _blocks_wanted(sequence, count) > free and alive[-1] is not sequence:
            victim = alive.pop()
            free += len(victim.block_ids)
            preempted.append(victim)
        count = min(count, _room(sequence, free))
        if count == 0:
            continue  # no budget, or no blocks while older ones hold them: it waits with what it has
        free -= _blocks_wanted(sequence, count)
        if sequence.num_pending > 1:
            budget -= count
            promised += _blocks_wanted(sequence, sequence.num_pending) - _blocks_wanted(sequence, count)
        chunks.append(Chunk(sequence, count))
    admitted: list[Sequence] = []
    if not preempted:
        for sequence in waiting:
            # Whole prompt and one more block, so that an admission is not undone by the next step.
            whole = num_blocks_for(min(sequence.num_tokens + BLOCK_TOKENS, sequence.max_tokens))
            if len(alive) + len(admitted) >= limits.max_batch or budget == 0 or whole > free - promised:
                break
            count = min(sequence.num_pending, budget)
            budget -= count
            free -= num_blocks_for(count)
            promised += whole - num_blocks_for(count)
            admitted.append(sequence)
            chunks.append(Chunk(sequence, count))
    return Plan(tuple(chunks), tuple(admitted), tuple(preempted))


def _blocks_wanted(sequence: Sequence, count: int) -> int:
    """Blocks beyond those it has, for `count` more tokens."""
    return max(0, num_blocks_for(sequence.num_computed + count) - len(sequence.block_ids))


def _room(sequence: Sequence, free: int) -> int:
    """Tokens it could compute with its own blocks and `free` more."""
    return (len(sequence.block_ids) + free) * BLOCK_TOKENS - sequence.num_computed
