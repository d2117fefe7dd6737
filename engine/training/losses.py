"""The losses of drafts against the target's own distribution, with the head's product in their midst.

Logits of all slots would take gigabytes, so the product, the losses and their gradients are computed together,
some rows at a time, and the logits forgotten. All figures are float32.

A drafter with a reduced vocabulary cannot draft the tokens outside it. p_t stays the target's distribution over
its whole vocabulary: in the total variation the mass outside counts in full, since p_d is 0 there, and so it
lowers the acceptance 1 - TV / 2 that the confidence learns; a label outside has no cross entropy (its slot
stays in the divisor), and a cross entropy against all of p_t leaves the mass outside away.
R = slots of all blocks, D = hidden size, r = rank, V = drafter's vocabulary, P = positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Ordered
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

DECAY_SLOTS = 4.0
_PRODUCT_ROWS = 512  # of the head at once
_CHUNK_ROWS = 32  # of their losses: with 8,192 tokens 1 MB of float32, which stays in a core's cache
_SPLIT_COLUMNS = 32  # what processors multiply at once


@dataclass(frozen=True, slots=True)
class LossWeights:
    """How much each part counts, and how much slot k (from 0): `decay` to the power k."""

    cross_entropy: float = 0.1
    total_variation: float = 0.9
    confidence: float = 1.0
    decay: float = math.exp(-1.0 / DECAY_SLOTS)
    is_soft: bool = False  # the cross entropy is taken against p_t, not against the label alone


class HeadLosses(NamedTuple):
    """The sum of the weighted losses, and each row's own."""

    total: Tensor  # []
    cross_entropy: Tensor  # [R]
    total_variation: Tensor  # [R] sum over the vocabulary of |p_d - p_t|
    is_best: Tensor  # [R] bool: the label is the drafter's likeliest token


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Consecutive rows, and the consecutive positions whose distributions are their targets."""

    rows: slice
    positions: slice


@dataclass(frozen=True, slots=True)
class Goals:
    """What every slot is compared with, and how much it counts."""

    last_hidden: Tensor  # [P, D] the target's states after its final norm
    log_norms: Tensor  # [P] logsumexp of the target's logits
    positions: Tensor  # [R] the slot's position, among those of its group
    labels: Tensor  # [R] columns of the drafter's vocabulary, -1 for none
    weights: Tensor  # [R] the divisor is in them
    groups: Ordered[RowGroup]


class TargetHead:
    """The rows of the target's head that the drafter may draft, all or those of its `vocabulary` [V]."""

    def __init__(self, head_weight: Tensor, vocabulary: Tensor | None, dtype: torch.dtype) -> None:
        rows = head_weight if vocabulary is None else head_weight[vocabulary]
        self.weight = rows.to(dtype).contiguous()  # [V, D]
        ones = torch.zeros(len(rows), _SPLIT_COLUMNS, dtype=dtype, device=rows.device)
        ones[:, :2] = 1.0
        self._extended = self.weight if dtype == torch.float32 else torch.cat([self.weight, ones], dim=1)
        self.columns = None
        if vocabulary is not None:
            self.columns = torch.full((len(head_weight),), -1, device=rows.device)
            self.columns[vocabulary] = torch.arange(len(vocabulary), device=rows.device)

    def column_of(self, token_ids: Tensor) -> Tensor:
        """The drafter's ids of the target's; -1 where there is none."""
        return token_ids if self.columns is None else self.columns[token_ids]

    def probs(self, last_hidden: Tensor, log_norms: Tensor) -> Tensor:
        """p_t [P, V] of states after the final norm [P, D] whose logits' logsumexp is `log_norms` [P].

        In 16 bits the norm is subtracted within the product, where sums are float32: what is rounded is the
        log probability, small where it matters, and not the far larger logit.
        """
        if self._extended is self.weight:
            return (F.linear(last_hidden.float(), self.weight) - log_norms.unsqueeze(1)).exp_()
        high = log_norms.to(self.weight.dtype)
        low = (log_norms - high.float()).to(self.weight.dtype)
        split = F.pad(torch.stack([-high, -low], dim=1), (0, _SPLIT_COLUMNS - 2))
        return F.linear(torch.cat([last_hidden, split], dim=1), self._extended).float().exp_()


def slot_weights(counts: Tensor, decay: float) -> Tensor:
    """Weight of each slot, 0 where it does not count: bool [A, n] -> [A, n]."""
    powers = decay ** torch.arange(counts.shape[1], device=counts.device, dtype=torch.float32)
    return counts * powers


def head_losses(
    hidden: Tensor,
    codes: Tensor | None,
    biases: Tensor | None,
    head: TargetHead,
    goals: Goals,
    weights: LossWeights,
) -> HeadLosses:
    """Losses of logits head(hidden) + codes @ biases^T.

    `hidden` [R, D], `codes` [R, r] and `biases` [V, r] get gradients.
    """
    return HeadLosses(*_HeadLoss.apply(hidden, codes, biases, head, goals, weights))


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        codes: Tensor | None,
        biases: Tensor | None,
        head: TargetHead,
        goals: Goals,
        weights: LossWeights,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        size = hidden.shape[1]
        inputs, table = hidden, head.weight
        if codes is not None and biases is not None:  # one product for both
            inputs = torch.cat([hidden, codes], dim=1)
            table = torch.cat([table, biases.to(table.dtype)], dim=1)
        wants_gradient = any(ctx.needs_input_grad)
        gradient = torch.zeros_like(inputs) if wants_gradient else None
        bias_gradient = torch.zeros_like(biases, dtype=torch.float32) if biases is not None else None
        labels = goals.labels
        entropy, variation = torch.zeros_like(goals.weights), torch.zeros_like(goals.weights)
        is_best = torch.zeros_like(labels, dtype=torch.bool)
        columns = weights.cross_entropy * goals.weights, weights.total_variation * goals.weights
        for group in goals.groups:
            probs = head.probs(goals.last_hidden[group.positions], goals.log_norms[group.positions])
            for first in range(group.rows.start, group.rows.stop, _PRODUCT_ROWS):
                at = slice(first, min(first + _PRODUCT_ROWS, group.rows.stop))
                logits = F.linear(inputs[at], table)  # [r, V]; becomes their gradient
                for low in range(0, len(logits), _CHUNK_ROWS):
                    some = slice(first + low, min(first + low + _CHUNK_ROWS, at.stop))
                    part = logits[low : low + _CHUNK_ROWS]
                    target = probs.index_select(0, goals.positions[some] - group.positions.start)
                    entropy[some], variation[some], is_best[some] = _row_losses(
                        part, target, labels[some], columns[0][some], columns[1][some], weights.is_soft
                    )
                if gradient is not None:
                    torch.mm(logits, table, out=gradient[at])
                    if bias_gradient is not None:
                        bias_gradient += (logits.t() @ inputs[at, size:]).float()
        ctx.save_for_backward(gradient, bias_gradient)
        ctx.size = size
        ctx.mark_non_differentiable(entropy, variation, is_best)
        return (columns[0] * entropy + columns[1] * variation).sum(), entropy, variation, is_best

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradient, bias_gradient = ctx.saved_tensors
        scaled = gradient * upstream.to(gradient.dtype)
        has_codes = bias_gradient is not None
        codes = scaled[:, ctx.size :] if has_codes else None
        biases = bias_gradient * upstream if has_codes else None
        return scaled[:, : ctx.size], codes, biases, None, None, None


def _row_losses(
    logits: Tensor,
    target: Tensor,
    labels: Tensor,
    entropy_weight: Tensor,
    variation_weight: Tensor,
    is_soft: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross entropy, total variation and whether the label is the best, of each row [R].

    `logits` [R, V] become the gradient of the weighted sum with respect to them.
    """
    probs = torch.softmax(logits, dim=-1, dtype=torch.float32)
    at = labels.clamp_min(0).unsqueeze(1)
    known = (labels >= 0).float()
    of_label = probs.gather(1, at).squeeze(1) * known
    is_best = of_label >= probs.amax(dim=-1)
    difference = probs - target
    outside = (1.0 - target.sum(dim=-1)).clamp_min_(0.0)
    variation = difference.abs().sum(dim=-1) + outside
    signs = difference.sign_()
    turned = (probs * signs).sum(dim=-1)
    if is_soft:
        entropy = -(target * probs.clamp_min(1e-30).log_()).sum(dim=-1)
        pull, mass = target * entropy_weight.unsqueeze(1), target.sum(dim=-1)
    else:
        entropy_weight = entropy_weight * known
        entropy = -of_label.clamp_min(1e-30).log() * known
        mass = known
    shift = entropy_weight * mass - variation_weight * turned
    slope = signs.mul_(variation_weight.unsqueeze(1)).add_(shift.unsqueeze(1)).mul_(probs)
    if is_soft:
        slope -= pull
    else:
        slope.scatter_add_(1, at, -entropy_weight.unsqueeze(1))
    logits.copy_(slope)
    return entropy, variation, is_best
