"""Markov heads: what the token drafted in the slot before adds to the logits of a slot.

The block's slots are computed side by side and know nothing of each other's tokens; this low-rank bias
is what links them. Three forms (DSpark, section 1.5 of its paper's notation: x previous token, h
hidden of the slot, s recurrent state). B = sequences, D = hidden size, r = rank, V = drafter's vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engine.drafters.layers import Projection


class MarkovHead(Protocol):
    """Biases slot by slot; `state` is None in the first slot and only the head knows what is in it."""

    embedding: Tensor  # [target's vocabulary, r]

    def bias(self, embedded: Tensor, hidden: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Previous tokens' `embedded` [B, r] and the slot's `hidden` [B, D] -> bias [B, V], state."""


@dataclass(slots=True)
class VanillaHead:
    """The bias depends on the previous token alone."""

    embedding: Tensor
    out: Projection  # r -> V

    def bias(self, embedded: Tensor, hidden: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self.out(embedded), None


@dataclass(slots=True)
class GatedHead:
    """The slot's hidden state decides which parts of the embedding count."""

    embedding: Tensor
    out: Projection
    gate: Projection  # D + r -> r

    def bias(self, embedded: Tensor, hidden: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        gate = self.gate(torch.cat([hidden, embedded], dim=-1)).sigmoid()
        return self.out(gate * embedded), None


@dataclass(slots=True)
class RecurrentHead:
    """A state carries over from slot to slot; the bias sees the state before this slot's update."""

    embedding: Tensor
    out: Projection
    joint: Projection  # 2r + D -> 3r: keep gate, candidate, output

    def bias(self, embedded: Tensor, hidden: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        before = torch.zeros_like(embedded) if state is None else state
        keep, candidate, output = self.joint(torch.cat([before, embedded, hidden], dim=-1)).chunk(3, dim=-1)
        gate = keep.sigmoid()
        after = gate * before + (1.0 - gate) * candidate.tanh()
        return self.out(output.tanh()), after
