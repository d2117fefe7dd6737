"""How well confidence predicts survival: the figures of DSpark's evaluation, slot by slot.

In: for each round and slot the predicted survival (the product of the confidences up to that slot) and
whether the prefix survived verification. Out: expected calibration error, area under the ROC curve and
Brier score. Only full-length proposals should be measured: a threshold hides what it cut off.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass

import torch
from torch import Tensor

CALIBRATION_BINS = 20
ROC_BINS = 1000


@dataclass(frozen=True, slots=True)
class SlotCalibration:
    """One slot's figures over `num_labels` rounds; `auroc` is None where all survived, or none."""

    num_labels: int
    calibration_error: float
    auroc: float | None
    brier: float
    mean_predicted: float
    mean_survived: float


def survival(confidence_logits: Tensor) -> Tensor:
    """Predicted survival [rounds, n] float64 from the logits of each slot's confidence."""
    return confidence_logits.double().sigmoid().cumprod(dim=1)


def calibrate(predicted: Tensor, survived: Tensor, counts: Tensor) -> list[SlotCalibration]:
    """Figures of each slot. All [rounds, n]; where `counts` is False a round had no such slot."""
    figures = []
    for slot in range(predicted.shape[1]):
        kept = counts[:, slot]
        if bool(kept.any()):
            figures.append(_one_slot(predicted[kept, slot].double(), survived[kept, slot].double()))
    return figures


def _one_slot(predicted: Tensor, survived: Tensor) -> SlotCalibration:
    return SlotCalibration(
        num_labels=len(predicted),
        calibration_error=_calibration_error(predicted, survived),
        auroc=_auroc(predicted, survived),
        brier=float((predicted - survived).square().mean()),
        mean_predicted=float(predicted.mean()),
        mean_survived=float(survived.mean()),
    )


def _calibration_error(predicted: Tensor, survived: Tensor) -> float:
    """Mean gap between prediction and outcome over bins of equal width, weighted by how full they are."""
    bins = _bin_of(predicted, CALIBRATION_BINS)
    gaps = torch.zeros(CALIBRATION_BINS, dtype=torch.float64).index_add(0, bins, predicted - survived)
    return float(gaps.abs().sum() / len(predicted))


def _auroc(predicted: Tensor, survived: Tensor) -> float | None:
    """Chance that a survivor was given more than one that fell, equal bins counting half."""
    bins = _bin_of(predicted, ROC_BINS)
    good = torch.zeros(ROC_BINS, dtype=torch.float64).index_add(0, bins, survived)
    bad = torch.zeros(ROC_BINS, dtype=torch.float64).index_add(0, bins, 1.0 - survived)
    pairs = float(good.sum() * bad.sum())
    if pairs == 0.0:
        return None
    lower = bad.cumsum(0) - bad
    return float((good * (lower + 0.5 * bad)).sum()) / pairs


def _bin_of(predicted: Tensor, count: int) -> Tensor:
    return (predicted * count).long().clamp(0, count - 1)


def summary(figures: Ordered[SlotCalibration]) -> SlotCalibration:
    """The slots' figures, each weighted by its number of labels."""
    total = sum(one.num_labels for one in figures)

    def mean(values: list[float]) -> float:
        return sum(one.num_labels * value for one, value in zip(figures, values, strict=True)) / total

    ranked = [one for one in figures if one.auroc is not None]
    num_ranked = sum(one.num_labels for one in ranked)
    return SlotCalibration(
        num_labels=total,
        calibration_error=mean([one.calibration_error for one in figures]),
        auroc=sum(one.num_labels * (one.auroc or 0.0) for one in ranked) / num_ranked if ranked else None,
        brier=mean([one.brier for one in figures]),
        mean_predicted=mean([one.mean_predicted for one in figures]),
        mean_survived=mean([one.mean_survived for one in figures]),
    )
