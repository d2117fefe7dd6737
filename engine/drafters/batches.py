"""Lays spans of computed positions and anchors out as the tensors drafters take.

In: plain values of each sequence. Out: `ContextRows` and `DraftBatch`. Changes no sequence.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.chance import Stream, stream_uniforms
from engine.drafters.base import ContextRows, DraftBatch
from engine.drafters.draws import GREEDY_BELOW
from engine.kv_cache import slot_of


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one sequence that the target has just computed and that stay."""

    token_ids: Ordered[int]
    first_position: int
    block_ids: list[int]


@dataclass(frozen=True, slots=True)
class Anchor:
    """A sequence that wants a proposal. Its last token is the anchor, at `len(history) - 1`."""

    history: Ordered[int]  # every token, prompt and answer
    block_ids: list[int]  # of at least all positions before the anchor's
    temperature: float
    seed: int
    num_generated: int  # tokens of the answer so far, the anchor included: the next one's place
    stop_ids: frozenset[int] = frozenset()


def context_rows(spans: Ordered[Span], features: Tensor) -> ContextRows:
    """`features` [N, F] belong to the spans' tokens in order, and say on which device the rows are."""
    token_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    previous: list[int] = []
    for span in spans:
        first, last = span.first_position, span.first_position + len(span.token_ids)
        around = [slot_of(span.block_ids, max(at, 0)) for at in range(first - 1, last)]
        token_ids += span.token_ids
        positions += range(first, last)
        slots += around[1:]
        previous += around[:-1]
    numbers = torch.tensor([token_ids, positions, slots, previous], dtype=torch.long, device=features.device)
    return ContextRows(features, *numbers)


def draft_batch(anchors: Ordered[Anchor], num_slots: int, device: torch.device) -> DraftBatch:
    """One row a sequence; numbers are drawn only where somebody samples.

    Each round has numbers of its own, also for a place that an earlier one has drafted: by what became known
    of that draft the scheduling may since have decided.
    """
    width = max(len(anchor.block_ids) for anchor in anchors)
    tables = [anchor.block_ids + [0] * (width - len(anchor.block_ids)) for anchor in anchors]
    temperatures = uniforms = stops = None
    if any(anchor.temperature >= GREEDY_BELOW for anchor in anchors):
        temperatures = torch.tensor([anchor.temperature for anchor in anchors], device=device)
        seeds = [anchor.seed for anchor in anchors]
        places = [anchor.num_generated * num_slots for anchor in anchors]
        uniforms = stream_uniforms(Stream.DRAFT, seeds, places, num_slots, device)
    most = max(len(anchor.stop_ids) for anchor in anchors)
    if most:
        padded = [[*anchor.stop_ids, *[-1] * (most - len(anchor.stop_ids))] for anchor in anchors]
        stops = torch.tensor(padded, device=device)
    return DraftBatch(
        anchors=torch.tensor([anchor.history[-1] for anchor in anchors], device=device),
        starts=torch.tensor([len(anchor.history) - 1 for anchor in anchors], device=device),
        block_ids=torch.tensor(tables, device=device),
        temperatures=temperatures,
        uniforms=uniforms,
        stop_ids=stops,
        histories=[anchor.history for anchor in anchors],
    )
