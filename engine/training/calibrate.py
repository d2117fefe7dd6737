"""Sequential Temperature Scaling: a drafter's confidence made to mean what it says, slot by slot.

In: rounds that were verified in full. Out: a temperature for each slot, so that the product of the
confidences up to it tells how often drafts survive that far (DSpark's paper, section on calibration). Pure.
R = rounds, n = slots.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import replace

import torch

from engine.drafters.calibration import calibrate, summary, survival
from engine.drafters.temperatures import Calibration
from engine.errors import StartError
from engine.training.evaluate import Rounds

GRID = tuple(10.0 ** (step / 20) for step in range(-20, 21))  # 0.1 to 10, with 1 in the middle


def fit(learnt: Rounds, held_out: Rounds) -> list[float]:
    """Temperatures chosen from GRID on `learnt`, left to right, each with those before it in place.

    A slot keeps 1 where its choice does not lower the error on `held_out`, or where no draft ever stood:
    the lowest temperature would seem best there.
    """
    temperatures: list[float] = []
    for stood in learnt.stood.any(dim=0).tolist():
        options = [[*temperatures, one] for one in GRID]
        best = min(options, key=lambda option: _slot_error(learnt, option))
        unchanged = [*temperatures, 1.0]
        helps = stood and _slot_error(held_out, best) < _slot_error(held_out, unchanged)
        temperatures = best if helps else unchanged
    return temperatures


def calibration_of(learnt: Rounds, held_out: Rounds, dataset: str) -> Calibration:
    """What `fit` finds, with the mean errors before and after on `held_out`."""
    for part in (learnt, held_out):
        if not len(part) or not part.has_confidence or not bool(part.tested.any(dim=0).all()):
            raise StartError("too few rounds to calibrate with: give more prompts")
    temperatures = fit(learnt, held_out)
    before, after = (_mean_error(rounds) for rounds in (held_out, scaled(held_out, temperatures)))
    return Calibration(tuple(temperatures), dataset, len(learnt) + len(held_out), before, after)


def scaled(rounds: Rounds, temperatures: Ordered[float]) -> Rounds:
    """The same rounds with their confidence at those temperatures."""
    return replace(rounds, logits=rounds.logits / torch.tensor(temperatures))


def halves(rounds: Rounds) -> tuple[Rounds, Rounds]:
    """Rounds of prompts with even numbers and of those with odd ones: a prompt is never in both."""
    is_odd = rounds.prompts % 2 == 1
    return rounds.where(~is_odd), rounds.where(is_odd)


def joined(parts: Ordered[Rounds]) -> Rounds:
    return Rounds(*(torch.cat([getattr(part, name) for part in parts]) for name in Rounds.__slots__))


def _slot_error(rounds: Rounds, temperatures: Ordered[float]) -> float:
    """Calibration error of the last of the slots that have a temperature."""
    slot = len(temperatures) - 1
    logits = rounds.logits[:, : slot + 1] / torch.tensor(temperatures)
    predicted = survival(logits)[:, slot:]
    stood, tested = rounds.stood[:, slot : slot + 1], rounds.tested[:, slot : slot + 1]
    return calibrate(predicted, stood, tested)[0].calibration_error


def _mean_error(rounds: Rounds) -> float:
    return summary(calibrate(survival(rounds.logits), rounds.stood, rounds.tested)).calibration_error
