"""The losses and gradients that are computed in pieces, against all logits at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.training.losses import (
    Goals,
    HeadLosses,
    LossWeights,
    RowGroup,
    TargetHead,
    head_losses,
    slot_weights,
)

NUM_TOKENS, SIZE, RANK, POSITIONS, ROWS = 50, 12, 3, 9, 70
GROUPS = (RowGroup(slice(0, 33), slice(0, 4)), RowGroup(slice(33, ROWS), slice(4, POSITIONS)))


class Case:
    """Random rows and targets, of a vocabulary cut to every third token or not."""

    def __init__(self, is_cut: bool) -> None:
        noise = torch.Generator().manual_seed(5)

        def some(*shape: int) -> Tensor:
            return torch.randn(shape, generator=noise)

        self.head_weight = some(NUM_TOKENS, SIZE)
        self.vocabulary = torch.arange(0, NUM_TOKENS, 3) if is_cut else None
        size = NUM_TOKENS if self.vocabulary is None else len(self.vocabulary)
        self.hidden, self.codes, self.biases = some(ROWS, SIZE), some(ROWS, RANK), some(size, RANK)
        self.last_hidden = some(POSITIONS, SIZE)
        self.log_norms = torch.logsumexp(self.last_hidden @ self.head_weight.T, dim=-1)
        low = torch.where(torch.arange(ROWS) < 33, 0, 4)
        high = torch.where(torch.arange(ROWS) < 33, 4, POSITIONS)
        self.target_rows = low + (torch.rand(ROWS, generator=noise) * (high - low)).long()
        self.labels = torch.randint(0, NUM_TOKENS, (ROWS,), generator=noise)
        self.row_weights = torch.rand(ROWS, generator=noise)
        for leaf in self.leaves:
            leaf.requires_grad_()

    @property
    def leaves(self) -> list[Tensor]:
        return [self.hidden, self.codes, self.biases]

    def ours(self, weights: LossWeights) -> HeadLosses:
        head = TargetHead(self.head_weight, self.vocabulary, torch.float32)
        columns = head.column_of(self.labels)
        goals = Goals(self.last_hidden, self.log_norms, self.target_rows, columns, self.row_weights, GROUPS)
        return head_losses(self.hidden, self.codes, self.biases, head, goals, weights)

    def expected(self, weights: LossWeights) -> tuple[Tensor, Tensor]:
        """The loss and the total variations, over the target's whole vocabulary."""
        kept = torch.arange(NUM_TOKENS) if self.vocabulary is None else self.vocabulary
        drafted = self.hidden @ self.head_weight[kept].T + self.codes @ self.biases.T
        logits = torch.full((ROWS, NUM_TOKENS), -1e30).index_copy(1, kept, drafted)
        target = torch.softmax(self.last_hidden @ self.head_weight.T, dim=-1)[self.target_rows]
        variation = (torch.softmax(logits, dim=-1) - target).abs().sum(dim=-1)
        if weights.is_soft:
            entropy = -(target[:, kept] * torch.log_softmax(drafted, dim=-1)).sum(dim=-1)
        else:
            is_known = torch.isin(self.labels, kept)
            entropy = torch.where(is_known, F.cross_entropy(logits, self.labels, reduction="none"), 0.0)
        parts = weights.cross_entropy * entropy + weights.total_variation * variation
        return (self.row_weights * parts).sum(), variation


@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize("weights", [LossWeights(), LossWeights(1.0, 0.3, 0.0, is_soft=True)])
def test_losses_and_gradients_are_those_of_all_logits_at_once(is_cut: bool, weights: LossWeights) -> None:
    case = Case(is_cut)
    losses = case.ours(weights)
    ours = torch.autograd.grad(losses.total, case.leaves)
    expected, variation = case.expected(weights)
    torch.testing.assert_close(losses.total, expected)
    torch.testing.assert_close(losses.total_variation, variation)
    for one, other in zip(ours, torch.autograd.grad(expected, case.leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_best_token_is_the_label_where_its_logit_is_the_largest() -> None:
    case = Case(is_cut=True)
    assert case.vocabulary is not None
    logits = case.hidden @ case.head_weight[case.vocabulary].T + case.codes @ case.biases.T
    case.labels[::2] = case.vocabulary[logits.argmax(dim=-1)][::2]
    expected = case.vocabulary[logits.argmax(dim=-1)] == case.labels
    assert torch.equal(case.ours(LossWeights()).is_best, expected)
    assert 0 < int(expected.sum()) < ROWS


def test_probabilities_in_bfloat16_keep_the_precision_of_their_inputs() -> None:
    noise = torch.Generator().manual_seed(6)
    head_weight = torch.randn(NUM_TOKENS, SIZE, generator=noise).bfloat16()
    last_hidden = (4 * torch.randn(POSITIONS, SIZE, generator=noise)).bfloat16()  # logits of about 30
    logits = last_hidden.float() @ head_weight.float().T
    ours = TargetHead(head_weight, None, torch.bfloat16).probs(last_hidden, torch.logsumexp(logits, dim=-1))
    assert (ours - torch.softmax(logits, dim=-1)).abs().max() < 2e-3


def test_slots_weigh_less_the_later_they_are() -> None:
    counts = torch.tensor([[True, True, False], [True, False, False]])
    expected = torch.tensor([[1.0, 0.5, 0.0], [1.0, 0.0, 0.0]])
    assert torch.equal(slot_weights(counts, 0.5), expected)
