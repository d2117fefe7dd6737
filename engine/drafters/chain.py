"""Eagle3 and MTP-1: one decoder layer that drafts token by token, fed with its own output.

The row at position j joins token j with what its predecessor left: the target's feature of position
j - 1, or the layer's own output where j - 1 was drafted. So row j is a function of tokens 0..j, position
0 has no row, and the row of the anchor is computed when a proposal begins. Rows carry the rotation of
position j - 1. B = sequences, N = rows, D = hidden size, V = drafter's vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.drafters.base import ContextRows, DraftBatch, Proposal, lengths_to_stop
from engine.drafters.context import ContextShape, DraftCache, slots_at
from engine.drafters.draws import choose
from engine.drafters.layers import DraftLayer, Norm, Projection, RotaryTable, visible
from engine.linear import Head


class Fusion(Protocol):
    """How a token and what its predecessor left become the layer's input."""

    def carry(self, features: Tensor) -> Tensor:
        """What a row the target computed leaves for the next: features [N, F] -> [N, D]."""

    def join(self, embedded: Tensor, carried: Tensor, input_norm: Norm) -> tuple[Tensor, Tensor]:
        """Token embeddings and carries [N, D] -> residual stream [N, D], attention's input [N, in]."""


@dataclass(frozen=True, slots=True)
class Eagle3Fusion:
    """The carry is the residual stream; the token enters through attention only."""

    projection: Projection  # features of several target layers -> D
    hidden_norm: Norm

    def carry(self, features: Tensor) -> Tensor:
        return self.projection(features)

    def join(self, embedded: Tensor, carried: Tensor, input_norm: Norm) -> tuple[Tensor, Tensor]:
        return carried, torch.cat([input_norm(embedded), self.hidden_norm(carried)], dim=-1)


@dataclass(frozen=True, slots=True)
class MtpFusion:
    """Token and last hidden state, each normed, are projected into an ordinary decoder layer's input."""

    projection: Projection  # 2D -> D, the embedding's half first
    embedding_norm: Norm
    hidden_norm: Norm

    def carry(self, features: Tensor) -> Tensor:
        return features

    def join(self, embedded: Tensor, carried: Tensor, input_norm: Norm) -> tuple[Tensor, Tensor]:
        both = torch.cat([self.embedding_norm(embedded), self.hidden_norm(carried)], dim=-1)
        stream = self.projection(both)
        return stream, input_norm(stream)


@dataclass(slots=True)
class ChainDrafter:
    """A one-layer chain; stops proposing after a drafted stop token."""

    target_layer_ids: tuple[int, ...]
    num_slots: int
    embedding: Tensor  # [target's vocabulary, D]
    fusion: Fusion
    layer: DraftLayer
    final_norm: Norm
    head: Head
    rotary: RotaryTable
    vocabulary: Tensor | None = None  # [V] target ids; None: the target's own vocabulary
    reads_last_hidden: bool = False

    @property
    def context(self) -> ContextShape:
        attention = self.layer.attention
        return ContextShape(1, attention.num_kv_heads, attention.head_dim, self.embedding.shape[1])

    @torch.inference_mode()
    def extend(self, rows: ContextRows, cache: DraftCache) -> None:
        cache.write_carries(rows.slots, self.fusion.carry(rows.features))
        carried = cache.read_carries(rows.previous_slots)
        _, seen = self._join(rows.token_ids, carried)
        rotation = self.rotary.at(rows.positions - 1)
        cache.write(0, rows.slots, self.layer.attention.key_value(seen, rotation))

    @torch.inference_mode()
    def propose(self, batch: DraftBatch, cache: DraftCache) -> Proposal:
        stored = cache.read(0, batch.block_ids)
        carried = cache.read_carries(slots_at(batch.block_ids, batch.starts - 1))  # [B, D]
        token_ids = batch.anchors
        scratch: list[Tensor] = []
        drafted, drawn, probs = [], [], []
        for slot in range(self.num_slots):
            rotation_at = batch.starts - 1 + slot
            carried, row = self._advance(token_ids, carried, rotation_at, batch.starts, stored, scratch)
            scratch.append(row)
            points = None if batch.uniforms is None else batch.uniforms[:, slot]
            column, distribution = choose(self.logits(carried), batch.temperatures, points)
            if distribution is not None:
                probs.append(distribution)
                drawn.append(distribution.gather(1, column.unsqueeze(1)).squeeze(1))
            token_ids = column if self.vocabulary is None else self.vocabulary[column]
            drafted.append(token_ids)
        proposed = torch.stack(drafted, dim=1)
        return Proposal(
            token_ids=proposed,
            lengths=lengths_to_stop(proposed, batch.stop_ids),
            token_probs=torch.stack(drawn, dim=1) if drawn else None,
            draft_probs=torch.stack(probs, dim=1) if probs else None,
            vocabulary=self.vocabulary,
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """A row's output [B, D] -> float32 logits [B, V] of the token after it."""
        return self.head(self.final_norm(hidden))

    def _advance(
        self,
        token_ids: Tensor,
        carried: Tensor,
        rotation_at: Tensor,
        starts: Tensor,
        stored: tuple[Tensor, Tensor],
        scratch: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """The layer's output [B, D] for one row a sequence, and that row's keys and values [B, 2K, d]."""
        stream, seen = self._join(token_ids, carried)
        rotation = self.rotary.at(rotation_at)
        row = self.layer.attention.key_value(seen, rotation)
        fresh = torch.stack([*scratch, row], dim=1)  # [B, S, 2K, d]
        mask = visible(1, starts, stored[0].shape[2], fresh.shape[1])
        query = self.layer.attention.query(seen, rotation)
        return self.layer.mlp(stream + self.layer.attention.attend(query, stored, fresh, mask)), row

    def _join(self, token_ids: Tensor, carried: Tensor) -> tuple[Tensor, Tensor]:
        embedded = F.embedding(token_ids, self.embedding)
        return self.fusion.join(embedded, carried, self.layer.input_norm)
