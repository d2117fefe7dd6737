"""What training makes smaller, and what it tells of a batch on the way.

In: a net, the target's head and a `Batch`. Out: the loss, and figures of every slot. The loss is
a sum over slots divided by the sum of their weights, over all processes where there are several.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.training.build import Net
from engine.training.losses import Goals, LossWeights, RowGroup, TargetHead, head_losses, slot_weights
from engine.training.modules import Batch

_LEAST = 1e-6  # added to the divisor


class Scores(NamedTuple):
    """The loss, its parts unweighted (divided as the loss is), and sums over the slots that count."""

    loss: Tensor  # [] to go backwards from
    cross_entropy: Tensor  # []
    total_variation: Tensor  # []
    confidence: Tensor  # []
    accepted: Tensor  # [n] sum of 1 - TV / 2: the share of draws that would be accepted
    counted: Tensor  # [n] slots that count
    hits: Tensor  # [A, n] bool: the likeliest token is the label


class Objective(nn.Module):
    def __init__(self, net: Net, head: TargetHead, weights: LossWeights) -> None:
        super().__init__()
        self.net, self.head, self.weights = net, head, weights

    def divisor(self, batch: Batch) -> Tensor:
        """[] sum of the slots' weights."""
        return slot_weights(batch.counts, self.weights.decay).sum()

    def forward(self, batch: Batch, divisor: Tensor, num_processes: int = 1) -> Scores:
        """`divisor` is the sum over all processes, whose gradients will be averaged."""
        drafted = self.net(batch)
        num_slots = self.net.num_slots
        weights = slot_weights(batch.counts, self.weights.decay).flatten() / (divisor + _LEAST)  # [A * n]
        columns = self.head.column_of(batch.labels).flatten()
        at = batch.anchors.unsqueeze(1) + torch.arange(num_slots, device=batch.anchors.device)
        groups, places = [], at.clamp_max(len(batch.token_ids) - 1).flatten()  # the label's position less one
        for span in batch.spans:
            first = int(batch.anchors[span.anchors.start])
            last = min(int(batch.anchors[span.anchors.stop - 1]) + num_slots, span.tokens.stop)
            rows = slice(span.anchors.start * num_slots, span.anchors.stop * num_slots)
            places[rows].clamp_(max=last - 1)
            groups.append(RowGroup(rows, slice(first, last)))
        goals = Goals(batch.last_hidden, batch.log_norms, places, columns, weights, groups)
        losses = head_losses(drafted.hidden, drafted.codes, self.net.biases, self.head, goals, self.weights)
        accepted = (1.0 - 0.5 * losses.total_variation).clamp(0.0, 1.0)
        loss, confidence = losses.total, torch.zeros_like(losses.total)
        if drafted.confidence is not None:
            apart = F.binary_cross_entropy_with_logits(drafted.confidence, accepted, reduction="none")
            confidence = (weights * apart).sum()
            loss = loss + self.weights.confidence * confidence
        shape, counts = batch.counts.shape, batch.counts
        return Scores(
            loss * num_processes,
            (weights * losses.cross_entropy).sum().detach(),
            (weights * losses.total_variation).sum().detach(),
            confidence.detach(),
            (accepted.view(shape) * counts).sum(0).detach(),
            counts.sum(0),
            losses.is_best.view(shape) & counts,
        )
