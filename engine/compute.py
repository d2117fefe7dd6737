"""Runs one planned step: the target's pass, the verdict on the drafts, and what the drafter takes in.

In: chunks in row order, whose sequences own the blocks they need, and their drafts. Out: `Computed`, what
each sequence that is read to its end gets. Changes the caches, but no sequence and no books.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from engine.batch import build_batch
from engine.judge import Judged, decide
from engine.kv_cache import KVCache
from engine.model import Model
from engine.scheduler import Chunk
from engine.sequence import Sequence
from engine.speculation import Drafts, Speculation


@dataclass(frozen=True, slots=True)
class Computed:
    """What a step came to."""

    chunks: list[Chunk]
    judged: dict[Sequence, Judged] = field(default_factory=dict)  # of those with nothing left pending
    verify_s: float = 0.0  # the target's pass
    sample_s: float = 0.0  # choosing tokens
    extend_s: float = 0.0  # the drafter's taking in, where it is due

    @property
    def num_rows(self) -> int:
        return sum(chunk.width for chunk in self.chunks)


def compute(
    model: Model,
    cache: KVCache,
    speculation: Speculation | None,
    chunks: list[Chunk],
    drafts: Drafts,
    clock: Callable[[], float],
) -> Computed:
    """Compute the chunks."""
    begun_s = clock()
    repeats = model.config.num_heads // model.config.num_kv_heads
    batch = build_batch(chunks, repeats, model.dtype, model.device)
    out = model.forward(batch, cache, speculation.capture if speculation else ())
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)  # else its time would be counted as that of choosing tokens
    verified_s = clock()
    final = [chunk for chunk in chunks if chunk.is_final]
    judged: dict[Sequence, Judged] = {}
    if final:
        sequences = [chunk.sequence for chunk in final]
        proposal = drafts.proposal_for(final, model.device)
        verdicts = decide(proposal, out.logits, sequences, [chunk.drafted for chunk in final])
        judged = dict(zip(sequences, verdicts, strict=True))
    judged_s = clock()
    if speculation:
        accepted = {sequence: one.accepted for sequence, one in judged.items()}
        speculation.extend(chunks, accepted, out.features)
    return Computed(chunks, judged, verified_s - begun_s, judged_s - verified_s, extend_s=clock() - judged_s)
