"""What every drafter is: it takes in what the target computed, and proposes the tokens after an anchor.

The anchor is the last committed token, the one the target has not seen yet; it stands at position
`start`. A drafter remembers one context row for each position before it, in a cache with the target's
blocks (`engine.drafters.context`). Row j depends on tokens 0..j alone, so prefixes share rows as they
share the target's keys and values. What is computed for a proposal is never stored: forgetting
rejected tokens means counting fewer rows, nothing is copied or cleared.
B = sequences, n = slots of a proposal, N = rows, V = vocabulary of the drafter.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engine.drafters.context import ContextShape, DraftCache


@dataclass(frozen=True, slots=True)
class ContextRows:
    """Positions that went through the target, of any number of sequences, in a prompt or in a round."""

    features: Tensor  # [N, F] outputs of `target_layer_ids` side by side; F = 0 where none are read
    token_ids: Tensor  # [N]
    positions: Tensor  # [N]
    slots: Tensor  # [N] where the rows are stored
    previous_slots: Tensor  # [N] where the row before each is stored; anything for position 0


@dataclass(frozen=True, slots=True)
class DraftBatch:
    """Sequences that want a proposal."""

    anchors: Tensor  # [B]
    starts: Tensor  # [B] position of the anchor: the rows 0..start-1 are in the cache
    block_ids: Tensor  # [B, blocks] padded with any block
    temperatures: Tensor | None  # [B]; None: all greedy
    uniforms: Tensor | None  # [B, n] float64, of the stream DRAFT; None: all greedy
    stop_ids: Tensor | None  # [B, S] padded with -1: a drafted one ends its proposal; None: none do
    histories: Ordered[Ordered[int]]  # all tokens of each sequence, the anchor last; only looked up


@dataclass(frozen=True, slots=True)
class Proposal:
    """Drafted tokens and the distributions they were drawn from.

    Only the first `lengths` tokens of a row are to be verified. Whether a token is among them may depend on
    the tokens before it, never on itself or on those after it: else the output is biased.
    """

    token_ids: Tensor  # [B, n] in the target's vocabulary
    lengths: Tensor  # [B] 0..n
    token_probs: Tensor | None = None  # [B, n] of the tokens themselves; None: all 1
    draft_probs: Tensor | None = None  # [B, n, V] float32; None: each token was certain
    vocabulary: Tensor | None = None  # [V] target id of each drafter's id; None: they are the same
    confidence_logits: Tensor | None = None  # [B, n] of "passes, given that those before it pass"

    def selected(self, rows: Ordered[int], lengths: Ordered[int]) -> Proposal:
        """The proposals of some rows in another order, of which `lengths` tokens each are to be verified."""
        device = self.token_ids.device
        at = torch.tensor(rows, dtype=torch.long, device=device)

        def pick(part: Tensor | None) -> Tensor | None:
            return None if part is None else part[at]

        return Proposal(
            token_ids=self.token_ids[at],
            lengths=torch.tensor(lengths, dtype=torch.long, device=device),
            token_probs=pick(self.token_probs),
            draft_probs=pick(self.draft_probs),
            vocabulary=self.vocabulary,
            confidence_logits=pick(self.confidence_logits),
        )


class Drafter(Protocol):
    """One kind of drafter with its weights. It holds nothing about any sequence."""

    @property
    def num_slots(self) -> int:
        """Tokens of a full proposal."""

    @property
    def target_layer_ids(self) -> tuple[int, ...]:
        """Target layers whose outputs make the features, strictly rising; empty where none do."""

    @property
    def reads_last_hidden(self) -> bool:
        """Whether the features are instead the target's last hidden state, after its final norm."""

    @property
    def context(self) -> ContextShape | None:
        """What it keeps of each position; None where it keeps nothing."""

    def extend(self, rows: ContextRows, cache: DraftCache) -> None:
        """Take in rows the target computed and that stay, of one step or of many."""

    def propose(self, batch: DraftBatch, cache: DraftCache) -> Proposal:
        """Draft the tokens after each anchor. Leaves the cache as it is."""


def confident_lengths(confidence_logits: Tensor, threshold: float) -> Tensor:
    """Slots before the first whose confidence is below `threshold`: [B, n] -> [B]."""
    sure = confidence_logits.sigmoid() >= threshold
    return sure.long().cumprod(dim=1).sum(dim=1)


def lengths_to_stop(token_ids: Tensor, stop_ids: Tensor | None) -> Tensor:
    """Tokens up to and including the first stop token: [B, n] -> [B], n where there is none."""
    batch, count = token_ids.shape
    if stop_ids is None:
        return torch.full((batch,), count, device=token_ids.device)
    stops = (token_ids.unsqueeze(2) == stop_ids.unsqueeze(1)).any(dim=2).long()  # [B, n]
    seen_before = stops.cumsum(dim=1) - stops
    return (seen_before == 0).sum(dim=1)
