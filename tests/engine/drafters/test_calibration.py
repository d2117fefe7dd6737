"""Calibration figures against DeepSpec's, and against a count of every pair."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from engine.drafters.calibration import SlotCalibration, calibrate, summary, survival
from tests.engine.drafters import parity


@pytest.fixture(scope="module")
def figures() -> list[SlotCalibration]:
    stored = parity.tensors("confidence_metrics")
    counts = torch.ones_like(stored["step_probs"], dtype=torch.bool)
    counts[::5, 2:] = False  # every fifth block has two positions
    predicted = survival(stored["step_probs"].logit())
    return calibrate(predicted, stored["prefix_accepted"], counts)


def near(ours: float | None, theirs: float) -> None:
    assert ours == pytest.approx(theirs, rel=parity.TOLERANCE)


def check(ours: SlotCalibration, theirs: dict[str, float], ending: str) -> None:
    near(ours.calibration_error, theirs[f"ece{ending}"])
    near(ours.auroc, theirs[f"auc{ending}"])
    near(ours.brier, theirs[f"brier{ending}"])
    near(ours.mean_predicted, theirs["pred_mean"])
    near(ours.mean_survived, theirs["target_mean"])


def test_each_slot_equals_deepspecs(figures: list[SlotCalibration]) -> None:
    expected = parity.facts("confidence_metrics")["per_position"]
    for ours, theirs in zip(figures, expected, strict=True):
        assert ours.num_labels == theirs["total_weight"]
        check(ours, theirs, "")


def test_the_summary_equals_deepspecs(figures: list[SlotCalibration]) -> None:
    check(summary(figures), parity.facts("confidence_metrics")["summary"], "_mean")


def column(values: list[int], size: int) -> Tensor:
    return (torch.tensor(values, dtype=torch.float64) / size).unsqueeze(1)


@given(st.lists(st.tuples(st.integers(0, 999), st.booleans()), min_size=1, max_size=60))
def test_auroc_is_the_share_of_pairs_in_the_right_order(rounds: list[tuple[int, bool]]) -> None:
    predicted = column([2 * score + 1 for score, _ in rounds], 2000)  # the middle of a bin
    survived = column([int(lived) for _, lived in rounds], 1)
    (ours,) = calibrate(predicted, survived, torch.ones_like(predicted, dtype=torch.bool))
    good = [score for score, lived in rounds if lived]
    bad = [score for score, lived in rounds if not lived]
    if not good or not bad:
        assert ours.auroc is None
        return
    right = sum((high > low) + 0.5 * (high == low) for high in good for low in bad)
    assert ours.auroc == pytest.approx(right / len(good) / len(bad))


def test_predictions_that_come_true_have_no_calibration_error() -> None:
    predicted = column([1, 1, 1, 1, 3, 3, 3, 3], 4)
    survived = column([1, 0, 0, 0, 1, 1, 1, 0], 1)
    (ours,) = calibrate(predicted, survived, torch.ones_like(predicted, dtype=torch.bool))
    assert ours.calibration_error == pytest.approx(0.0)
    assert ours.mean_survived == pytest.approx(0.5)
