"""DSpark and DFlash: one forward drafts a whole block; a Markov head links its slots (DSpark only).

The block is the anchor and mask tokens. Its slots see every context row and each other, in both
directions. With `samples_anchor` slot t stands at position start + t and predicts the token after it;
without it the anchor predicts nothing and a mask slot predicts the token at its own position.
B = sequences, w = block width, n = slots that predict, D = hidden size, V = drafter's vocabulary, k = columns
that a slot may choose from: all, or those with the largest logits before any bias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.drafters.base import ContextRows, DraftBatch, Proposal
from engine.drafters.context import ContextShape, DraftCache
from engine.drafters.draws import choose
from engine.drafters.layers import DraftLayer, Norm, Projection, RotaryTable, visible
from engine.drafters.markov import MarkovHead
from engine.linear import Head

if TYPE_CHECKING:
    from engine.drafters.quantized import QuantizedBlock

Choose = Callable[[int, Tensor], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True, slots=True)
class Drafted:
    """A block's tokens in the drafter's vocabulary, with what they were chosen from."""

    columns: Tensor  # [B, n]
    draft_probs: Tensor | None  # [B, n, V]
    logits: Tensor  # [B, n, k] float32, Markov bias included
    previous: Tensor | None  # [B, n, r] Markov embeddings of the tokens before; None without a head


@dataclass(slots=True)
class BlockDrafter:
    """A DSpark drafter; without `markov` and `confidence` it is DFlash."""

    target_layer_ids: tuple[int, ...]
    block_size: int
    mask_token_id: int
    embedding: Tensor  # [target's vocabulary, D]
    feature_projection: Projection
    feature_norm: Norm
    layers: list[DraftLayer]
    final_norm: Norm
    head: Head
    rotary: RotaryTable
    markov: MarkovHead | None = None
    confidence: Projection | None = None  # D + r or D -> 1
    confidence_reads_markov: bool = True
    confidence_temperatures: Tensor | None = None  # [n], see `engine.drafters.temperatures`; None: all 1
    vocabulary: Tensor | None = None  # [V] target ids; None: the target's own vocabulary
    samples_anchor: bool = True
    draft_topk: int | None = None  # k; None: all columns
    reads_last_hidden: bool = False
    quantized: QuantizedBlock | None = None  # computes in place of what follows, if there is one

    @property
    def num_slots(self) -> int:
        return self.block_size if self.samples_anchor else self.block_size - 1

    @property
    def context(self) -> ContextShape:
        attention = self.layers[0].attention
        return ContextShape(len(self.layers), attention.num_kv_heads, attention.head_dim)

    @torch.inference_mode()
    def extend(self, rows: ContextRows, cache: DraftCache) -> None:
        if self.quantized is not None:
            return self.quantized.extend(rows, cache)
        context = self.feature_norm(self.feature_projection(rows.features))  # [N, D], for every layer
        rotation = self.rotary.at(rows.positions)
        for index, layer in enumerate(self.layers):
            cache.write(index, rows.slots, layer.attention.key_value(context, rotation))

    @torch.inference_mode()
    def propose(self, batch: DraftBatch, cache: DraftCache) -> Proposal:
        if self.quantized is not None:
            proposal = self.quantized.propose(batch, cache)
            return replace(proposal, confidence_logits=self._tempered(proposal.confidence_logits))
        hidden = self.block_hidden(batch, cache)

        def choose_slot(slot: int, logits: Tensor) -> tuple[Tensor, Tensor | None]:
            points = None if batch.uniforms is None else batch.uniforms[:, slot]
            return choose(logits, batch.temperatures, points)

        drafted = self.link_slots(hidden, batch.anchors, choose_slot)
        probs = drafted.draft_probs
        confidence = self.confidence_logits(hidden, drafted.previous)
        return Proposal(
            token_ids=self._target_ids(drafted.columns),
            lengths=torch.full_like(batch.starts, self.num_slots),
            token_probs=None if probs is None else probs.gather(2, drafted.columns.unsqueeze(2)).squeeze(2),
            draft_probs=probs,
            vocabulary=self.vocabulary,
            confidence_logits=confidence,
        )

    def block_hidden(self, batch: DraftBatch, cache: DraftCache) -> Tensor:
        """The normed hidden states of the predicting slots, [B, n, D]."""
        count, width = len(batch.anchors), self.block_size
        token_ids = torch.full((count, width), self.mask_token_id, device=batch.anchors.device)
        token_ids[:, 0] = batch.anchors
        offsets = torch.arange(width, device=batch.starts.device)
        rotation = self.rotary.at((batch.starts.unsqueeze(1) + offsets).view(-1))
        hidden = F.embedding(token_ids.view(-1), self.embedding)  # [B * w, D]
        mask: Tensor | None = None
        for index, layer in enumerate(self.layers):
            normed, attention = layer.input_norm(hidden), layer.attention
            stored = cache.read(index, batch.block_ids)
            if mask is None:
                mask = visible(0, batch.starts, stored[0].shape[2], width)
            scratch = attention.key_value(normed, rotation).view(count, width, -1, attention.head_dim)
            query = attention.query(normed, rotation)
            hidden = layer.mlp(hidden + attention.attend(query, stored, scratch, mask))
        return self.final_norm(hidden).view(count, width, -1)[:, -self.num_slots :]

    def base_logits(self, hidden: Tensor) -> Tensor:
        """hidden [B, n, D] -> float32 [B, n, V], before any Markov bias."""
        return self.head(hidden.reshape(-1, hidden.shape[-1])).view(*hidden.shape[:2], -1)

    def link_slots(self, hidden: Tensor, anchors: Tensor, choose_slot: Choose) -> Drafted:
        """Choose token by token: each one's Markov embedding biases the slot after it.

        `choose_slot` gets a slot's number and its logits [B, k], and returns what `draws.choose` does.
        """
        base = self.base_logits(hidden)
        allowed = self._allowed(base)
        logits = base if allowed is None else base.gather(2, allowed)
        previous_ids, state = anchors, None
        columns, probs, embeddings = [], [], []
        for slot in range(hidden.shape[1]):
            here = None if allowed is None else allowed[:, slot]
            if self.markov is not None:
                embedded = F.embedding(previous_ids, self.markov.embedding)  # [B, r]
                code, state = self.markov.code(embedded, hidden[:, slot], state)
                logits[:, slot] += self.markov.biases(code, here)  # summed in float32
                embeddings.append(embedded)
            chosen, distribution = choose_slot(slot, logits[:, slot])
            column = chosen if here is None else here.gather(1, chosen.unsqueeze(1)).squeeze(1)
            columns.append(column)
            previous_ids = self._target_ids(column)
            if distribution is not None:
                probs.append(distribution)
        draft_probs = torch.stack(probs, dim=1) if probs else None
        if draft_probs is not None and allowed is not None:
            draft_probs = torch.zeros_like(base).scatter_(2, allowed, draft_probs)
        return Drafted(
            columns=torch.stack(columns, dim=1),
            draft_probs=draft_probs,
            logits=logits,
            previous=torch.stack(embeddings, dim=1) if embeddings else None,
        )

    def _allowed(self, base: Tensor) -> Tensor | None:
        """The columns [B, n, k] of the largest logits, in rising order; None where all are allowed."""
        if self.draft_topk is None:
            return None
        count = min(self.draft_topk, base.shape[-1])
        return base.topk(count, dim=-1, sorted=False).indices.sort(dim=-1).values

    def confidence_logits(self, hidden: Tensor, previous: Tensor | None) -> Tensor | None:
        """[B, n] float32 logits of "passes if those before it do"; slot k does not see its own token."""
        if self.confidence is None:
            return None
        seen = hidden
        if previous is not None and self.confidence_reads_markov:
            seen = torch.cat([hidden, previous], dim=-1)
        logits = self.confidence(seen.reshape(-1, seen.shape[-1])).view(seen.shape[:2]).float()
        return self._tempered(logits)

    def _tempered(self, confidence_logits: Tensor | None) -> Tensor | None:
        if confidence_logits is None or self.confidence_temperatures is None:
            return confidence_logits
        return confidence_logits / self.confidence_temperatures

    def _target_ids(self, columns: Tensor) -> Tensor:
        return columns if self.vocabulary is None else self.vocabulary[columns]
