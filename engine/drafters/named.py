"""Drafters by name: from what `--drafter` says to a drafter, ready to run beside the served model.

In: `auto`, `bundled`, `lookup`, `none`, a local folder or a Hugging Face id, and the target. Out: the drafter
with the name it is reported under. What does not fit or cannot be fetched is a `StartError`. Knows no sequences.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.checkpoint import read_json
from engine.drafters.base import Drafter
from engine.drafters.fingerprint import KEY, fingerprint
from engine.drafters.hybrid import Hybrid
from engine.drafters.loading import Loaded, TargetParts, load_drafter
from engine.drafters.lookup import PromptLookup
from engine.errors import StartError
from engine.fetch import BUNDLED_MODEL, Progress, fetch_drafter
from engine.model import Model

log = logging.getLogger("engine")

BUNDLED = Path(__file__).parents[1] / "bundled" / BUNDLED_MODEL
_NAMES_IN_LOG = 3


@dataclass(frozen=True, slots=True)
class Named:
    """A drafter and its name: `bundled`, `lookup`, a folder's name, or a Hugging Face id."""

    name: str
    drafter: Drafter


def load_named(
    name: str,
    model: Model,
    data_dir: Path,
    progress: Progress = lambda what, share: None,
    *,
    draft_topk: int | None = None,
) -> Named | None:
    """The drafter of that name for `model`; None for `none`.

    `bundled` is the learned one of this package, with prompt lookup beside it. `auto` is the same where the
    bundled drafter was trained for this model, otherwise prompt lookup alone, which needs no files. A learned
    one runs on the model's device in the format of its embedding: bfloat16 beside w8a16. `draft_topk` as in
    `load_drafter`. The folder may be the model's own, if an MTP layer is in it.
    """
    if name == "none":
        return None
    if name in ("auto", "bundled"):
        reason = _why_not_bundled(model)
        if reason is None:
            learned = _load("bundled", BUNDLED, model, draft_topk)
            return Named("bundled", Hybrid(PromptLookup(learned.num_slots), learned))
        if name == "bundled":
            raise StartError(f"--drafter bundled: {reason}")
        log.info("drafting by prompt lookup alone: %s", reason)
    fetched = fetch_drafter(name, data_dir, progress)
    if fetched is None:
        return Named("lookup", PromptLookup())
    return Named(fetched.name, _load(fetched.name, fetched.folder, model, draft_topk))


def _why_not_bundled(model: Model) -> str | None:
    """None where it fits."""
    if not (BUNDLED / "model.safetensors").is_file():
        return f"the bundled drafter's weights are missing, {BUNDLED / 'model.safetensors'}"
    config = read_json(BUNDLED / "config.json") or {}
    if config.get(KEY) != fingerprint(model.embedding):
        return f"the bundled drafter was trained for {BUNDLED.name}, not for the model that is served"
    return None


def _load(name: str, folder: Path, model: Model, draft_topk: int | None) -> Drafter:
    config = model.config
    target = TargetParts(
        config.num_layers,
        model.embedding,
        model.head_weight,
        model.head,
        config.max_positions,
        is_quantized=model.number_format == "w8a16",
    )
    try:
        loaded = load_drafter(folder, target, draft_topk=draft_topk)
    except torch.OutOfMemoryError:
        raise StartError(f"{name} does not fit into the memory of {model.device}") from None
    log.info("drafter %s", description(name, loaded))
    return loaded.drafter


def description(name: str, loaded: Loaded) -> str:
    """One line for the log: what it shares with the target, and what of its file nobody reads."""
    parts = {"embedding": loaded.shares_embedding, "head": loaded.shares_head}
    shared = " and ".join(part for part, is_shared in parts.items() if is_shared) or "nothing"
    line = f"{name}: {loaded.drafter.num_slots} slots, shares {shared} with the model"
    if not loaded.unused:
        return line
    listed = ", ".join(loaded.unused[:_NAMES_IN_LOG]) + (
        ", ..." if len(loaded.unused) > _NAMES_IN_LOG else ""
    )
    return f"{line}, {len(loaded.unused)} tensors of its file are not used: {listed}"
