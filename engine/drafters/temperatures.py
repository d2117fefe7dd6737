"""Temperatures of a drafter's confidence, one a slot, beside its weights: found by Sequential Temperature Scaling.

In and out: calibration.json, which also says on what they were found. Slot k's confidence is
sigmoid(logit ÷ temperature); 1 leaves it as it was trained. Knows no tensors.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.checkpoint import read_json
from engine.errors import StartError

FILE_NAME = "calibration.json"


@dataclass(frozen=True, slots=True)
class Calibration:
    """`num_samples`: rounds. The errors (ECE) are means over slots, on rounds the fit has not seen."""

    temperatures: tuple[float, ...]
    dataset: str
    num_samples: int
    ece_before: float
    ece_after: float

    def write(self, folder: Path) -> Path:
        """Put it beside the drafter's weights; an engine that starts from now on reads it."""
        path = folder / FILE_NAME
        scratch = path.with_name(f".{path.name}.part")
        scratch.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        scratch.replace(path)
        return path


def read_temperatures(folder: Path, num_slots: int) -> tuple[float, ...] | None:
    """Of each slot; None where the drafter was not calibrated. StartError where the file is wrong."""
    path = folder / FILE_NAME
    raw = read_json(path)
    if raw is None:
        return None
    temperatures = raw.get("temperatures")
    if (
        not isinstance(temperatures, list)
        or len(temperatures) != num_slots
        or not all(isinstance(one, int | float) and 0.0 < one < math.inf for one in temperatures)
    ):
        raise StartError(
            f"{path}: temperatures should be {num_slots} numbers above 0, one a slot, not {temperatures!r}; "
            "run `sparkgate drafter calibrate` again, or delete the file"
        )
    return tuple(float(one) for one in temperatures)
