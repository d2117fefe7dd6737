"""The shipped drafter's recipe, run anew for some minutes, comes to the losses that its log tells.

`make test-training` runs it: it needs the answers that are not part of the repository, both cores and time.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "engine" / "bundled" / "smollm2-135m-instruct"
FIRST_BLOCKS = "1600000"  # what the run began with: the learning rate follows from it
MOST_LOG_ROWS = 10  # whose scatter is the noise


def losses(log: Path) -> dict[int, float]:
    """Mean loss since the row before, by step."""
    with log.open(encoding="utf-8") as rows:
        return {int(row["step"]): float(row["loss"]) for row in csv.DictReader(rows)}


def scatter(values: list[float]) -> float:
    """Standard deviation of one value around a falling course, from the steps between neighbours."""
    return float(np.std(np.diff(values), ddof=1) / 2**0.5)


@pytest.mark.long
@pytest.mark.timeout(0)
def test_the_recipe_comes_to_the_logged_losses(model_folder: Path, tmp_path: Path) -> None:
    minutes, data = os.environ.get("SPARKGATE_TRAIN_MINUTES"), os.environ.get("SPARKGATE_TEST_DATA")
    if minutes is None or data is None:
        pytest.skip("takes minutes, and answers that are not ours: SPARKGATE_TEST_DATA=… make test-training")
    answers = [Path(data) / "answers" / "smollm2_answers.npz", ROOT / "engine/training/code_answers.npz"]
    out, kept = tmp_path / "run", os.environ.get("SPARKGATE_TRAIN_FEATURES")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "engine.training.train", "--recipe", str(SHIPPED / "recipe.yaml")]
    command += ["--model", str(model_folder), "--answers", *map(str, answers), "--out", str(out)]
    command += ["--blocks", FIRST_BLOCKS, "--for", f"{minutes}m", "--checkpoint-every-s", "3600"]
    command += ["--features", kept] if kept else []
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    told, found = losses(SHIPPED / "log.csv"), losses(out / "log.csv")
    steps = sorted(told.keys() & found.keys())
    last = steps[-min(len(steps) // 2, MOST_LOG_ROWS) :]
    noise = scatter([told[step] for step in last])
    apart = [found[step] - told[step] for step in last]
    print(f"\n{len(steps)} rows; the last {len(last)}, up to step {last[-1]}: losses {np.mean(apart):+.4f} ")
    print(f"from those logged, {np.abs(apart).max():.4f} at most; these scatter by {noise:.4f}")
    assert abs(np.mean(apart)) < noise
