"""Decides what the next step computes: a pure function of the sequences and the blocks.

Longest admitted first, always: a sequence may take blocks from those admitted after it (they are
preempted and computed again later), never from those before it, so the first always advances and every
request ends. Nothing is changed here; the loop acts on the returned plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from engine.blocks import BlockAllocator
from engine.kv_cache import BLOCK_TOKENS, num_blocks_for
from engine.prefix import find_prefix
from engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Limits:
    """What one step may hold: running sequences, and prefill tokens over all of them."""

    max_batch: int
    prefill_chunk: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """`num_tokens` pending tokens of one sequence, and drafted ones after its last, to be computed in this step."""

    sequence: Sequence
    num_tokens: int
    drafted: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Rows of the forward."""
        return self.num_tokens + len(self.drafted)

    @property
    def is_final(self) -> bool:
        """Whether nothing stays pending, so that a new token can be sampled."""
        return self.num_tokens == self.sequence.num_pending

    @property
    def is_round(self) -> bool:
        """Whether it continues an answer, with or without drafts."""
        return self.num_tokens == 1 and self.is_final and bool(self.sequence.output_ids)


@dataclass(frozen=True, slots=True)
class Admission:
    """A waiting sequence that begins, with the cached blocks of its longest known beginning."""

    sequence: Sequence
    prefix: tuple[int, ...] = ()

    @property
    def num_pending(self) -> int:
        return self.sequence.num_tokens - len(self.prefix) * BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class Plan:
    """The step: give back the blocks of `preempted`, move `admitted` in, then compute `chunks`."""

    chunks: tuple[Chunk, ...] = ()
    admitted: tuple[Admission, ...] = ()
    preempted: tuple[Sequence, ...] = ()  # youngest first


def plan_step(
    running: Iterable[Sequence],
    waiting: Iterable[Sequence],
    allocator: BlockAllocator,
    limits: Limits,
    drafted: Mapping[Sequence, tuple[int, ...]] = MappingProxyType({}),
) -> Plan:
    """Plan one step. `running` is in order of admission, `waiting` in the order to admit in.

    `drafted` tokens are verified as far as there are blocks for them that nobody needs.
    """
    alive, free = list(running), FreeBlocks(allocator)
    admitted = _admit(alive, waiting, free, allocator, limits)
    pending = {sequence: sequence.num_pending for sequence in alive}
    pending |= {admission.sequence: admission.num_pending for admission in admitted}
    counts = share_prefill(pending, limits.prefill_chunk)
    chunks, preempted = _claim(alive, counts, free)
    fresh = [admission.sequence for admission in admitted]
    free.count -= sum(_blocks_after(admission, counts[admission.sequence]) for admission in admitted)
    chunks = _add_drafts(chunks, drafted, free)
    chunks += [Chunk(sequence, counts[sequence]) for sequence in fresh if counts[sequence]]
    return Plan(tuple(chunks), tuple(admitted), tuple(preempted))


class FreeBlocks:
    """Counts how many blocks a plan would leave free. A shared one comes free with its last holder."""

    def __init__(self, allocator: BlockAllocator) -> None:
        self.count = allocator.num_free
        self._allocator = allocator
        self._change: dict[int, int] = {}  # holders, by block

    def share(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            if self._holders(block) == 0:
                self.count -= 1
            self._change[block] = self._change.get(block, 0) + 1

    def release(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            self._change[block] = self._change.get(block, 0) - 1
            if self._holders(block) == 0:
                self.count += 1

    def num_idle(self, blocks: Iterable[int]) -> int:
        """How many of `blocks` nobody would hold."""
        return sum(1 for block in blocks if self._holders(block) == 0)

    def _holders(self, block: int) -> int:
        return self._allocator.holders(block) + self._change.get(block, 0)


def _admit(
    alive: list[Sequence],
    waiting: Iterable[Sequence],
    free: FreeBlocks,
    allocator: BlockAllocator,
    limits: Limits,
) -> list[Admission]:
    """Take in whoever fits beside all that the running ones still have to compute; nobody is passed."""
    promised = sum(_blocks_wanted(sequence, sequence.num_pending) for sequence in alive)
    admitted: list[Admission] = []
    for sequence in waiting:
        if len(alive) + len(admitted) >= limits.max_batch or promised >= free.count:
            break
        prefix = find_prefix(sequence, allocator)
        # Whole prompt and one more block, so that an admission is not undone by the next step.
        whole = num_blocks_for(min(sequence.num_tokens + BLOCK_TOKENS, sequence.max_tokens)) - len(prefix)
        if promised + whole + free.num_idle(prefix) > free.count:
            break
        free.share(prefix)
        promised += whole
        admitted.append(Admission(sequence, tuple(prefix)))
    return admitted


def share_prefill(pending: dict[Sequence, int], budget: int) -> dict[Sequence, int]:
    """How many tokens each sequence computes, given how many it has pending, longest admitted first.

    One for those that decode. Of the prefill budget half goes by age, so that a long prompt is always
    read on, and half to whoever has least left, so that a short one need not wait for it. Equal prompts
    are finished one after the other, which ends each of them no later than reading all at once would.
    """
    counts = {sequence: int(left == 1) for sequence, left in pending.items()}
    reading = [sequence for sequence, left in pending.items() if left > 1]
    by_need = sorted(reading, key=lambda sequence: pending[sequence])
    for order, share in ((reading, budget - budget // 2), (by_need, budget // 2), (reading, budget)):
        share = min(share, budget)
        for sequence in order:
            count = min(share, pending[sequence] - counts[sequence])
            counts[sequence] += count
            share -= count
            budget -= count
    return counts


def _claim(
    alive: list[Sequence], counts: dict[Sequence, int], free: FreeBlocks
) -> tuple[list[Chunk], list[Sequence]]:
    """Blocks for the running ones, preempting from the end of `alive` where they run out."""
    chunks: list[Chunk] = []
    preempted: list[Sequence] = []
    index = 0
    while index < len(alive):
        sequence = alive[index]
        index += 1
        count = counts[sequence]
        while _blocks_wanted(sequence, count) > free.count and alive[-1] is not sequence:
            victim = alive.pop()
            free.release(victim.block_ids)
            preempted.append(victim)
        count = min(count, _room(sequence, free.count))
        if count == 0:
            continue  # no budget, or no blocks while older ones hold them: it waits with what it has
        free.count -= _blocks_wanted(sequence, count)
        chunks.append(Chunk(sequence, count))
    return chunks, preempted


def _add_drafts(
    chunks: list[Chunk], drafted: Mapping[Sequence, tuple[int, ...]], free: FreeBlocks
) -> list[Chunk]:
    """The chunks of decoding sequences with their drafts, for which nobody is preempted."""
    result: list[Chunk] = []
    for chunk in chunks:
        sequence, tokens = chunk.sequence, drafted.get(chunk.sequence, ())
        if tokens and chunk.is_final:
            held = max(len(sequence.block_ids), num_blocks_for(sequence.num_computed + chunk.num_tokens))
            room = (held + max(0, free.count)) * BLOCK_TOKENS - sequence.num_computed - chunk.num_tokens
            tokens = tokens[:room]
            needed = num_blocks_for(sequence.num_computed + chunk.num_tokens + len(tokens))
            free.count -= max(0, needed - held)
            chunk = replace(chunk, drafted=tokens)
        result.append(chunk)
    return result


def _blocks_after(admission: Admission, count: int) -> int:
    """Blocks beyond its prefix, for its first `count` tokens."""
    computed = len(admission.prefix) * BLOCK_TOKENS
    return num_blocks_for(computed + count) - len(admission.prefix)


def _blocks_wanted(sequence: Sequence, count: int) -> int:
    """Blocks beyond those it has, for `count` more tokens."""
    return max(0, num_blocks_for(sequence.num_computed + count) - len(sequence.block_ids))


def _room(sequence: Sequence, free: int) -> int:
    """Tokens it could compute with its own blocks and `free` more."""
    return (len(sequence.block_ids) + free) * BLOCK_TOKENS - sequence.num_computed
