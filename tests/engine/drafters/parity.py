"""The parity fixtures: numbers of DeepSpec's own modules for a tiny target and tiny drafters.

`SPARKGATE_PARITY_DIR` names another folder of the same layout (other seeds, gated or rnn heads): its
drafters are found and checked in the same way.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.checkpoint import read_config, read_weights
from engine.drafters.loading import Loaded, TargetParts, load_drafter
from engine.drafters.settings import read_settings
from engine.model import Llama
from tests.engine.drafters.checkpoints import reduced, write_checkpoint

FOLDER = Path(
    os.environ.get("SPARKGATE_PARITY_DIR", Path(__file__).parents[2] / "fixtures" / "dspark_parity")
)
TOLERANCE = 2e-4  # relative to the largest value


def drafters(kind: str) -> list[str]:
    """Names of the fixture folders with a drafter of this kind."""
    folders = [path.parent for path in sorted(FOLDER.glob("*/draft_rounds.json"))]
    return [folder.name for folder in folders if read_settings(folder).kind == kind]


def load_target(dtype: torch.dtype = torch.float32) -> Llama:
    folder = FOLDER / "target"
    return Llama(read_config(folder), read_weights(folder), dtype, torch.device("cpu"))


def parts_of(target: Llama) -> TargetParts:
    weights = read_weights(FOLDER / "target")
    head = weights["lm_head.weight"].to(target.device, target.dtype)
    return TargetParts(
        target.config.num_layers, target.embedding, head, target.head, target.config.max_positions
    )


def load(name: str, target: Llama) -> Loaded:
    return load_drafter(FOLDER / name, parts_of(target))


def load_reduced(name: str, target: Llama, ids: Tensor, folder: Path) -> Loaded:
    """A chain that may draft the tokens `ids` alone, written to `folder`."""
    config = json.loads((FOLDER / name / "config.json").read_text(encoding="utf-8"))
    written = write_checkpoint(folder, *reduced(config, read_weights(FOLDER / name), ids))
    return load_drafter(written, parts_of(target))


def tensors(name: str) -> dict[str, Tensor]:
    return load_file(FOLDER / f"{name}.safetensors")


def facts(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def assert_near(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()
