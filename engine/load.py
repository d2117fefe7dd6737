"""Loads a model folder in the number format asked for: which class runs it is decided here.

In: a folder and a format's name. Out: a `Model`. What cannot be loaded is a `StartError` that says why.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from engine.checkpoint import ModelConfig, read_weights
from engine.errors import StartError
from engine.linear import has_fast_bfloat16, has_tiles
from engine.model import Llama, Model
from engine.native.library import NativeUnavailable, load_library
from engine.quantized import QuantizedLlama, can_quantise

log = logging.getLogger("engine")


def choose_format(name: str, device: torch.device, config: ModelConfig | None = None) -> str:
    """The format that `auto` stands for on this machine, for the model with this config if it is given; any
    other name stands for itself. Builds the C++ forward where that is the choice: with AMX, without which
    it prefills more slowly."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    if config is not None and can_quantise(config) and has_tiles() and _has_library():
        return "w8a16"
    return "bfloat16" if has_fast_bfloat16() else "float32"


def _has_library() -> bool:
    try:
        load_library()
    except NativeUnavailable as reason:
        log.warning("not running in w8a16: %s", reason)
        return False
    return True


def load_model(config: ModelConfig, folder: Path, number_format: str, device: torch.device) -> Model:
    """The folder's model in `number_format` (not "auto") on `device`."""
    try:
        if number_format == "w8a16":
            return _load_quantized(config, folder, device)
        return Llama(config, read_weights(folder), getattr(torch, number_format), device)
    except KeyError as missing:
        raise StartError(f"{folder} lacks the tensor {missing}") from None
    except torch.OutOfMemoryError:
        raise StartError(f"{folder.name} does not fit into the memory of {device}") from None


def _load_quantized(config: ModelConfig, folder: Path, device: torch.device) -> QuantizedLlama:
    if device.type != "cpu":
        raise StartError(f"--dtype w8a16 runs on a CPU only, not on {device.type}; use bfloat16")
    if not can_quantise(config):
        raise StartError(f"--dtype w8a16 cannot run the sizes of {folder.name}; use bfloat16 or float32")
    try:
        return QuantizedLlama(config, read_weights(folder))
    except NativeUnavailable as reason:
        raise StartError(f"--dtype w8a16: {reason}; or use bfloat16 or float32") from None
