"""Markov heads: what the token drafted in the slot before adds to the logits of a slot.

The block's slots are computed side by side and know nothing of each other's tokens; this low-rank bias
is what links them: a code of the head's rank, and a table that makes biases of it. Three forms (DSpark,
section 1.5 of its paper's notation: x previous token, h hidden of the slot, s recurrent state).
B = sequences, D = hidden size, r = rank, V = drafter's vocabulary, k = columns that a slot may choose from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engine.drafters.layers import Projection


class Biases(Protocol):
    """What a code adds to the logits."""

    def __call__(self, code: Tensor, columns: Tensor | None) -> Tensor:
        """code [B, r] -> [B, V], or [B, k] where only `columns` [B, k] are wanted."""


@dataclass(frozen=True, slots=True)
class AllBiases:
    """Of every column: one product that reads the whole table."""

    projection: Projection  # r -> V

    def __call__(self, code: Tensor, columns: Tensor | None) -> Tensor:
        biases = self.projection(code)
        return biases if columns is None else biases.gather(1, columns)


@dataclass(frozen=True, slots=True)
class SomeBiases:
    """Of a few columns: reads their rows of the table only; in float32."""

    weight: Tensor  # [V, r]

    def __call__(self, code: Tensor, columns: Tensor | None) -> Tensor:
        rows = self.weight if columns is None else self.weight[columns]  # [V, r] or [B, k, r]
        return (rows.float() @ code.float().unsqueeze(2)).squeeze(2)


class MarkovHead(Protocol):
    """Codes slot by slot; `state` is None in the first slot and only the head knows what is in it."""

    embedding: Tensor  # [target's vocabulary, r]
    biases: Biases

    def code(self, embedded: Tensor, hidden: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Previous tokens' `embedded` [B, r] and the slot's `hidden` [B, D] -> code [B, r], state."""


@dataclass(slots=True)
class VanillaHead:
    """The bias depends on the previous token alone."""

    embedding: Tensor
    biases: Biases

    def code(self, embedded: Tensor, hidden: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return embedded, None


@dataclass(slots=True)
class GatedHead:
    """The slot's hidden state decides which parts of the embedding count."""

    embedding: Tensor
    biases: Biases
    gate: Projection  # D + r -> r

    def code(self, embedded: Tensor, hidden: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        gate = self.gate(torch.cat([hidden, embedded], dim=-1)).sigmoid()
        return gate * embedded, None


@dataclass(slots=True)
class RecurrentHead:
    """A state carries over from slot to slot; the bias sees the state before this slot's update."""

    embedding: Tensor
    biases: Biases
    joint: Projection  # 2r + D -> 3r: keep gate, candidate, output

    def code(self, embedded: Tensor, hidden: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        before = torch.zeros_like(embedded) if state is None else state
        keep, candidate, output = self.joint(torch.cat([before, embedded, hidden], dim=-1)).chunk(3, dim=-1)
        gate = keep.sigmoid()
        after = gate * before + (1.0 - gate) * candidate.tanh()
        return output.tanh(), after
