"""Pearson's test, for draws that should follow a known distribution."""

from __future__ import annotations

import torch
from torch import Tensor


def p_value(observed: Tensor, probs: Tensor) -> float:
    """Pearson's chi-square of counts against probabilities; cells expecting under 5 are pooled."""
    expected = probs.double() / probs.double().sum() * observed.sum()
    small = expected < 5
    counts = torch.cat([observed[~small].double(), observed[small].double().sum().view(1)])
    wanted = torch.cat([expected[~small], expected[small].sum().view(1)])
    counts, wanted = counts[wanted > 0], wanted[wanted > 0]
    statistic = ((counts - wanted).square() / wanted).sum()
    return float(torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2).double(), statistic / 2))
