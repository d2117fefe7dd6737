"""How a drafter is trained: every choice, from the command line and from a YAML file of the same names.

In: options. Out: `TrainSettings`. A mistake is a `StartError` that names the key. Imports no torch.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from engine.errors import StartError

DraftKind = Literal["dspark", "dflash", "eagle3", "mtp"]
KINDS: tuple[str, ...] = get_args(DraftKind)


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """A run. Tokens, slots and layers are counted; layers from 0; times in seconds."""

    model: Path  # the target's folder; what the command line and a recipe name is fetched
    answers: tuple[Path, ...]  # its own answers; a file named twice counts twice
    out: Path  # the run's folder
    kind: DraftKind = "dspark"
    layers: int = 2
    block_size: int = 7  # slots of a block, steps of a chain
    target_layer_ids: tuple[int, ...] = (1, 9, 18, 27)
    markov_rank: int = 64
    draft_vocab_size: int = 8192  # the likeliest tokens of the answers; 0: all
    mask_token_id: int = 16
    from_target: bool = True  # begin with the target's last layers and its embeddings, not at random
    start_from: Path | None = None  # begin instead with a drafter's folder, of the same kind and sizes
    blocks: int = 0  # anchors to learn from, over which the learning rate falls; 0: ten times all there are
    sequences_per_step: int = 8
    anchors_per_sequence: int = 64
    learning_rate: float = 6e-4
    warmup: float = 0.04  # share of the blocks
    clip: float = 1.0
    cross_entropy: float = 0.1
    total_variation: float = 0.9
    confidence: float = 1.0
    seed: int = 42
    held_out_per_domain: int = 12  # answers at temperature 0 that are never learnt from
    features: Path | None = None  # folder of what the target computes; None: in the run's
    resume: bool = False
    for_s: float | None = None  # stop after so long; `resume` goes on
    checkpoint_every_s: float = 300.0
    log_every_steps: int = 20
    device: str = "auto"
    dtype: str = "auto"  # the target's number format: the one it is served in
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise StartError(f"kind {self.kind!r} is not known; {', '.join(KINDS)} are")
        for name in ("layers", "block_size", "sequences_per_step", "anchors_per_sequence", "log_every_steps"):
            if getattr(self, name) < 1:
                raise StartError(f"{name} is {getattr(self, name)}; 1 or more is expected")
        for name in ("markov_rank", "draft_vocab_size", "blocks", "held_out_per_domain"):
            if getattr(self, name) < 0:
                raise StartError(f"{name} is {getattr(self, name)}; 0 or more is expected")
        if not self.answers:
            raise StartError("no file of answers is given")


_PATHS = ("model", "out", "start_from", "features")
_MANY_PATHS = ("answers",)
_NOT_OPTIONS = ("resume", "for_s", "target_layer_ids", "from_target", *_PATHS, *_MANY_PATHS)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Every setting as an option; what is not given comes from the recipe, or else is the default."""
    command.add_argument("--recipe", type=Path, metavar="FILE.yaml", help="settings by their names, _ for -")
    command.add_argument("--model", type=Path, help="the target: bundled name, folder or Hugging Face id")
    command.add_argument("--answers", type=Path, nargs="+", metavar="FILE.npz", help="the target's answers")
    command.add_argument("--out", type=Path, metavar="FOLDER", help="the run: state, log, and the drafter")
    command.add_argument(
        "--features", type=Path, metavar="FOLDER", help="what the target computes, 6 kB a token"
    )
    command.add_argument("--target-layer-ids", type=_whole_numbers, metavar="N,…")
    command.add_argument("--from-target", action=argparse.BooleanOptionalAction, default=None)
    command.add_argument("--start-from", type=Path, metavar="FOLDER", help="begin with an existing drafter")
    command.add_argument("--resume", action="store_true", default=None, help="go on where the run stopped")
    command.add_argument(
        "--for", dest="for_s", type=_seconds, metavar="TIME", help="stop after it: 90s, 5m, 2h"
    )
    for field in fields(TrainSettings):
        if field.name not in _NOT_OPTIONS:
            kind: Any = {"int": int, "int | None": int, "float": float}.get(str(field.type), str)
            command.add_argument(
                f"--{field.name.replace('_', '-')}", type=kind, help=f"default: {field.default}"
            )


def settings_of(options: argparse.Namespace) -> TrainSettings:
    """Settings of parsed options. StartError where one is missing, unknown or wrong."""
    known = {field.name for field in fields(TrainSettings)}
    values = _read_recipe(options.recipe, known) if options.recipe is not None else {}
    values |= {name: value for name, value in vars(options).items() if name in known and value is not None}
    missing = [name for name in ("model", "answers", "out") if name not in values]
    if missing:
        raise StartError(f"--{missing[0]} is needed, or {missing[0]} in the recipe")
    return TrainSettings(**values | {"answers": tuple(values["answers"])})


def _read_recipe(path: Path, known: set[str]) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise StartError(f"{path} cannot be read: {error}") from None
    if not isinstance(raw, dict):
        raise StartError(f"{path} should hold settings by name")
    unknown = sorted(set(raw) - known)
    if unknown:
        raise StartError(
            f"{path}: {', '.join(map(str, unknown))} is no setting; known are {', '.join(sorted(known))}"
        )
    values = dict(raw)
    for name in _PATHS:
        if values.get(name) is not None:
            values[name] = Path(values[name])
    if "answers" in values:
        values["answers"] = tuple(Path(one) for one in values["answers"])
    if "target_layer_ids" in values:
        values["target_layer_ids"] = tuple(values["target_layer_ids"])
    return values


def _whole_numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers, like 1,9,18,27") from None


def _seconds(text: str) -> float:
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    try:
        return float(text[:-1]) * units[text[-1:]]
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time, like 90s, 5m or 2h") from None
