"""A drafter's config.json as checked values, in DeepSpec's and in Speculators' layout.

In: the file's content. Out: `DraftSettings`. What could be read in two ways is refused with the file and
the key; what the drafters would compute wrongly is refused too. Knows no tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from engine.checkpoint import ModelConfig, build_config, read_json, refuse_what_is_not_computed
from engine.errors import StartError

Kind = Literal["dspark", "eagle3", "mtp"]
MarkovKind = Literal["vanilla", "gated", "rnn"]

DEEPSPEC_KINDS: dict[str, Kind] = {"Qwen3DSparkModel": "dspark", "Qwen3Eagle3Model": "eagle3"}
MARKOV_KINDS = ("vanilla", "gated", "rnn")


@dataclass(frozen=True, slots=True)
class DraftSettings:
    """What a drafter's checkpoint says of itself. `layers` are the sizes of the drafter's own layers."""

    kind: Kind
    layers: ModelConfig
    target_layer_ids: tuple[int, ...]  # 0-based, the output of that layer
    num_target_layers: int | None = None
    num_slots: int = 1  # block size, or steps of a chain
    mask_token_id: int = 0
    markov_rank: int = 0
    markov_kind: MarkovKind | None = None  # None: not said
    has_confidence: bool = False
    confidence_reads_markov: bool = False
    samples_anchor: bool = True
    draft_vocab_size: int | None = None  # None: the target's vocabulary


def read_settings(folder: Path) -> DraftSettings:
    """Read config.json of a drafter's folder. StartError where it is missing, unknown or ambiguous."""
    path = folder / "config.json"
    raw = read_json(path)
    if raw is None:
        raise StartError(f"{folder} has no config.json: it is not a drafter's folder")
    return parse_settings(path, raw)


def parse_settings(path: Path, raw: dict[str, Any]) -> DraftSettings:
    """What the content of a config.json says. StartError, which names it `path`, where it is unknown or ambiguous."""
    try:
        settings = _read(path, raw)
    except KeyError as missing:
        raise StartError(f"{path} lacks the key {missing}, which this kind of drafter needs") from None
    _check(path, settings)
    return settings


def _read(path: Path, raw: dict[str, Any]) -> DraftSettings:
    architectures = raw.get("architectures") or []
    if "speculators_model_type" in raw:
        return _read_speculators(path, raw)
    if "dflash_config" in raw:
        raise StartError(
            f"{path}: dflash_config marks z-lab's DFlash layout, which is not supported; "
            "convert the checkpoint to DeepSpec's or Speculators' layout"
        )
    if len(architectures) == 1 and architectures[0] in DEEPSPEC_KINDS:
        return _read_deepspec(path, raw, DEEPSPEC_KINDS[architectures[0]])
    num_mtp = int(raw.get("num_nextn_predict_layers") or raw.get("mtp_num_hidden_layers") or 0)
    if num_mtp == 1:
        layers = _layers(path, raw)
        vocab_size = _draft_vocab_size(raw.get("draft_vocab_size"), layers)
        return DraftSettings("mtp", layers, target_layer_ids=(), draft_vocab_size=vocab_size)
    if num_mtp > 1:
        raise StartError(f"{path}: {num_mtp} multi-token-prediction layers: only one is supported")
    known = ", ".join(DEEPSPEC_KINDS)
    raise StartError(
        f"{path}: architectures {architectures!r} does not say which drafter this is; known are {known}, "
        "and files with speculators_model_type"
    )


def _read_deepspec(path: Path, raw: dict[str, Any], kind: Kind) -> DraftSettings:
    layers, layer_ids = _layers(path, raw), _ids(path, raw, "target_layer_ids")
    if kind == "eagle3":
        return DraftSettings(
            kind,
            layers,
            layer_ids,
            num_target_layers=raw.get("num_target_layers"),
            num_slots=int(raw["ttt_length"]),
            draft_vocab_size=_draft_vocab_size(raw.get("draft_vocab_size"), layers),
        )
    rank = int(raw["markov_rank"])
    return DraftSettings(
        kind,
        layers,
        layer_ids,
        num_target_layers=raw.get("num_target_layers"),
        num_slots=int(raw["block_size"]),
        mask_token_id=int(raw["mask_token_id"]),
        markov_rank=rank,
        markov_kind=_markov_kind(path, raw, rank),
        has_confidence=bool(raw["enable_confidence_head"]),
        confidence_reads_markov=bool(raw.get("confidence_head_with_markov", False)),
    )


def _read_speculators(path: Path, raw: dict[str, Any]) -> DraftSettings:
    name = raw["speculators_model_type"]
    if name not in ("dspark", "dflash"):
        raise StartError(f"{path}: speculators_model_type {name!r} is not supported, only dspark and dflash")
    if "sample_from_anchor" not in raw:
        raise StartError(
            f"{path} lacks sample_from_anchor: readers disagree on what a missing one means. Write true into "
            "the file if the anchor's slot predicts the first token, false if it predicts nothing"
        )
    if raw.get("projector_type", "dflash") != "dflash":
        raise StartError(f"{path}: projector_type {raw['projector_type']!r} is not supported")
    layers = _layers(path, raw["transformer_layer_config"])
    rank = int(raw.get("markov_rank") or 0)
    return DraftSettings(
        "dspark",
        layers,
        tuple(one - 1 for one in _ids(path, raw, "aux_hidden_state_layer_ids")),
        num_slots=int(raw["block_size"]),
        mask_token_id=int(raw["mask_token_id"]),
        markov_rank=rank,
        markov_kind=_markov_kind(path, raw, rank),
        has_confidence=bool(raw.get("enable_confidence_head", False)),
        confidence_reads_markov=bool(raw.get("confidence_head_with_markov", False)),
        samples_anchor=bool(raw["sample_from_anchor"]),
        draft_vocab_size=_draft_vocab_size(raw["draft_vocab_size"], layers),
    )


def _draft_vocab_size(said: int | None, layers: ModelConfig) -> int | None:
    return None if said == layers.vocab_size else said


def _layers(path: Path, raw: dict[str, Any]) -> ModelConfig:
    """Biases of the attention are read from the tensors, so the key is no reason to refuse."""
    refuse_what_is_not_computed(path.parent, {**raw, "attention_bias": False})
    for place in (raw, raw.get("rope_parameters") or {}):
        if place.get("partial_rotary_factor", 1.0) != 1.0:
            raise StartError(
                f"{path}: partial_rotary_factor {place['partial_rotary_factor']} is not supported, only 1"
            )
    return build_config({"model_type": "qwen3", **raw}, {})


def _ids(path: Path, raw: dict[str, Any], key: str) -> tuple[int, ...]:
    ids = tuple(int(one) for one in raw[key])
    if not ids or any(low >= high for low, high in pairwise(ids)):
        raise StartError(f"{path}: {key} {list(ids)} must name at least one layer, strictly rising")
    return ids


def _markov_kind(path: Path, raw: dict[str, Any], rank: int) -> MarkovKind | None:
    kind: MarkovKind | None = raw.get("markov_head_type")
    if rank and kind not in (None, *MARKOV_KINDS):
        raise StartError(f"{path}: markov_head_type {kind!r} is not known; {', '.join(MARKOV_KINDS)} are")
    return kind


def _check(path: Path, settings: DraftSettings) -> None:
    if settings.kind == "dspark":
        least = 1 if settings.samples_anchor else 2
        if settings.num_slots < least:
            raise StartError(f"{path}: block_size {settings.num_slots} leaves no slot to predict in")
        if not 0 <= settings.mask_token_id < settings.layers.vocab_size:
            raise StartError(f"{path}: mask_token_id {settings.mask_token_id} is outside the vocabulary")
        if settings.confidence_reads_markov and settings.has_confidence and not settings.markov_rank:
            raise StartError(f"{path}: confidence_head_with_markov needs a markov_rank above 0")
    elif settings.num_slots < 1:
        raise StartError(f"{path}: ttt_length {settings.num_slots} leaves nothing to draft")
    elif settings.layers.num_layers != 1 and settings.kind == "eagle3":
        raise StartError(
            f"{path}: num_hidden_layers {settings.layers.num_layers}: an Eagle3 drafter has one layer"
        )
    size = settings.draft_vocab_size
    if size is not None and not 0 < size < settings.layers.vocab_size:
        raise StartError(f"{path}: draft_vocab_size {size} is not within the vocabulary")
    if any(one < 0 for one in settings.target_layer_ids):
        raise StartError(f"{path}: a feature before the first layer's output is not supported")
