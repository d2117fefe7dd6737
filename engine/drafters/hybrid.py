"""Prompt lookup beside a learned drafter: each round, each sequence takes the draft that is likelier to begin well.

Lookup costs nothing and wins where text is copied, the learned drafter elsewhere. They are compared by their
confidences in the first slot, which were told before anything was drawn; so no choice depends on a drawn
token, and testing is exact. B = sequences, n = slots, V = the learned drafter's vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.drafters.base import ContextRows, DraftBatch, Drafter, Proposal
from engine.drafters.context import ContextShape, DraftCache
from engine.drafters.lookup import PromptLookup

_SURE = 0.7  # a first draft found that is as likely leaves nothing to gain: the other one need not compute


@dataclass(frozen=True, slots=True)
class Hybrid:
    """Both have the same number of slots; the learned one tells its confidence."""

    lookup: PromptLookup
    learned: Drafter

    @property
    def num_slots(self) -> int:
        return self.learned.num_slots

    @property
    def target_layer_ids(self) -> tuple[int, ...]:
        return self.learned.target_layer_ids

    @property
    def reads_last_hidden(self) -> bool:
        return self.learned.reads_last_hidden

    @property
    def context(self) -> ContextShape | None:
        return self.learned.context

    def extend(self, rows: ContextRows, cache: DraftCache) -> None:
        self.learned.extend(rows, cache)

    @torch.inference_mode()
    def propose(self, batch: DraftBatch, cache: DraftCache) -> Proposal:
        found = self.lookup.propose(batch, cache)
        chances = _first_chances(found)
        rows = (chances < _SURE).nonzero().squeeze(1)
        if len(rows) == 0:
            return _joined(batch, found, found.selected([], []), rows)
        drafted = self.learned.propose(_some(batch, rows), cache)
        is_better = _first_chances(drafted) >= chances[rows]
        if len(rows) == len(chances) and bool(is_better.all()):
            return drafted
        better = drafted.selected(
            is_better.nonzero().squeeze(1).tolist(), drafted.lengths[is_better].tolist()
        )
        return _joined(batch, found, better, rows[is_better])


def _first_chances(proposal: Proposal) -> Tensor:
    """That the first draft stands: [B]."""
    assert proposal.confidence_logits is not None
    return proposal.confidence_logits[:, 0].sigmoid()


def _some(batch: DraftBatch, rows: Tensor) -> DraftBatch:
    def pick(part: Tensor | None) -> Tensor | None:
        return None if part is None else part[rows]

    return DraftBatch(
        anchors=batch.anchors[rows],
        starts=batch.starts[rows],
        block_ids=batch.block_ids[rows],
        temperatures=pick(batch.temperatures),
        uniforms=pick(batch.uniforms),
        stop_ids=pick(batch.stop_ids),
        histories=[batch.histories[row] for row in rows.tolist()],
    )


def _joined(batch: DraftBatch, found: Proposal, drafted: Proposal, rows: Tensor) -> Proposal:
    """What was found, but at `rows` what was drafted."""
    assert found.confidence_logits is not None
    assert drafted.confidence_logits is not None
    token_ids = found.token_ids.index_copy(0, rows, drafted.token_ids)
    lengths = found.lengths.index_copy(0, rows, drafted.lengths)
    confidence = found.confidence_logits.index_copy(0, rows, drafted.confidence_logits)
    if batch.temperatures is None:
        return Proposal(token_ids, lengths, confidence_logits=confidence)
    token_probs = torch.ones_like(confidence)
    if drafted.token_probs is not None:
        token_probs.index_copy_(0, rows, drafted.token_probs)
    draft_probs, vocabulary = _distributions(token_ids, drafted, rows)
    return Proposal(token_ids, lengths, token_probs, draft_probs, vocabulary, confidence)


def _distributions(token_ids: Tensor, drafted: Proposal, rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """Of all drafts [B, n, V and more] with their vocabulary: drawn from at `rows`, certain elsewhere.

    Tokens that were found and are none of the drafter's get columns after its own.
    """
    own, vocabulary, columns = drafted.draft_probs, drafted.vocabulary, token_ids
    if own is None:
        own, vocabulary = torch.zeros((0, token_ids.shape[1], 0), device=rows.device), rows.new_empty(0)
    num_own = num_columns = own.shape[2]
    if vocabulary is not None:
        vocabulary = torch.cat([vocabulary, token_ids[~torch.isin(token_ids, vocabulary)].unique()])
        num_columns = len(vocabulary)
        places = torch.zeros(int(vocabulary.max()) + 1, dtype=torch.long, device=rows.device)
        places[vocabulary] = torch.arange(num_columns, device=rows.device)
        columns = places[token_ids]
    probs = torch.zeros((*token_ids.shape, num_columns), device=rows.device)
    probs.scatter_(2, columns.unsqueeze(2), 1.0)
    probs[rows, :, :num_own] = own
    return probs, vocabulary
