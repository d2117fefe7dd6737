"""Reads a model folder in Hugging Face layout: config.json and safetensors.

In: a folder. Out: a `ModelConfig` and the weights by their Hugging Face names, as stored. It does not
import transformers (that alone costs seconds), knows nothing of devices, and refuses what the
forward in `model.py` would compute wrongly.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from engine.errors import StartError

SUPPORTED_TYPES = ("llama", "qwen3")
SUPPORTED_ROPE = ("default", "linear", "llama3")


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding: base and, for stretched contexts, how its frequencies are scaled."""

    theta: float = 10_000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything the forward needs to know about a Llama or Qwen3 model."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    norm_eps: float
    tied_embeddings: bool
    rope: RopeConfig
    eos_ids: frozenset[int]
    has_head_norms: bool = False  # Qwen3: queries and keys are normed head by head before they are rotated


def read_config(folder: Path) -> ModelConfig:
    """Read and check config.json (and generation_config.json for the end tokens)."""
    raw = read_json(folder / "config.json")
    if raw is None:
        raise StartError(f"{folder} has no config.json: it is not a Hugging Face model folder")
    model_type = raw.get("model_type")
    if model_type not in SUPPORTED_TYPES:
        supported = ", ".join(SUPPORTED_TYPES)
        raise StartError(f"{folder} holds a model of type {model_type!r}; this engine runs: {supported}")
    refuse_what_is_not_computed(folder, raw)
    generation = read_json(folder / "generation_config.json") or {}
    try:
        return build_config(raw, generation)
    except KeyError as missing:
        raise StartError(f"{folder}/config.json lacks the key {missing}") from None


def refuse_what_is_not_computed(folder: Path, raw: dict[str, Any]) -> None:
    for key in ("attention_bias", "mlp_bias"):
        if raw.get(key):
            raise StartError(f"{folder}: {key} is set; this engine runs models without biases")
    if raw.get("hidden_act", "silu") != "silu":
        raise StartError(f"{folder}: hidden_act {raw['hidden_act']!r} is not supported, only silu")
    if raw.get("partial_rotary_factor", 1.0) != 1.0:
        raise StartError(f"{folder}: partial_rotary_factor is not 1; this engine rotates whole heads only")
    if raw.get("use_sliding_window"):
        raise StartError(f"{folder}: use_sliding_window is set; this engine runs full attention only")
    other = set(raw.get("layer_types") or ()) - {"full_attention"}
    if other:
        raise StartError(f"{folder}: layer_types names {min(other)!r}; this engine runs full_attention only")


def build_config(raw: dict[str, Any], generation: dict[str, Any]) -> ModelConfig:
    num_heads = raw["num_attention_heads"]
    max_positions = raw["max_position_embeddings"]
    return ModelConfig(
        vocab_size=raw["vocab_size"],
        hidden_size=raw["hidden_size"],
        intermediate_size=raw["intermediate_size"],
        num_layers=raw["num_hidden_layers"],
        num_heads=num_heads,
        num_kv_heads=raw.get("num_key_value_heads") or num_heads,
        head_dim=raw.get("head_dim") or raw["hidden_size"] // num_heads,
        max_positions=max_positions,
        norm_eps=raw.get("rms_norm_eps", 1e-6),
        tied_embeddings=bool(raw.get("tie_word_embeddings", False)),
        rope=_read_rope(raw, max_positions),
        eos_ids=_ids(raw.get("eos_token_id")) | _ids(generation.get("eos_token_id")),
        has_head_norms=raw["model_type"] == "qwen3",
    )


def _read_rope(raw: dict[str, Any], max_positions: int) -> RopeConfig:
    """transformers 5 writes `rope_parameters`; before, `rope_theta` stood alone beside `rope_scaling`."""
    parameters = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if kind not in SUPPORTED_ROPE:
        raise StartError(
            f"rope type {kind!r} is not supported; this engine knows {', '.join(SUPPORTED_ROPE)}"
        )
    return RopeConfig(
        theta=float(parameters.get("rope_theta") or raw.get("rope_theta") or 10_000.0),
        kind=kind,
        factor=float(parameters.get("factor", 1.0)),
        low_freq_factor=float(parameters.get("low_freq_factor", 1.0)),
        high_freq_factor=float(parameters.get("high_freq_factor", 4.0)),
        original_max_positions=int(parameters.get("original_max_position_embeddings", max_positions)),
    )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder's safetensors files, memory-mapped where the library can."""
    index = read_json(folder / "model.safetensors.index.json")
    names = sorted(set(index["weight_map"].values())) if index else ["model.safetensors"]
    weights: dict[str, Tensor] = {}
    for name in names:
        path = folder / name
        if not path.is_file():
            raise StartError(f"{folder} has no {name}: only safetensors weights can be loaded")
        try:
            weights.update(load_file(path))
        except SafetensorError as error:
            raise StartError(f"{path} cannot be read: {error}") from None
    return weights


def read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StartError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise StartError(f"{path} should hold a JSON object")
    return value


def _ids(value: int | list[int] | None) -> frozenset[int]:
    if value is None:
        return frozenset()
    return frozenset([value] if isinstance(value, int) else value)
