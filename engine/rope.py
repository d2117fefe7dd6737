"""Rotary position tables. In: a `ModelConfig`. Out: cosine and signed sine for every position.

The frequencies of stretched models follow the formulas of the Llama 3.1 release ("llama3": only long
wavelengths are stretched, with a ramp between) and of position interpolation ("linear").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.checkpoint import ModelConfig, RopeConfig


def rotary_table(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine [positions, 1, head_dim]; the first half of the sines is negated.

    With that sign, x * cosine + roll(x, head_dim / 2) * sine is the rotation of transformers' Llama.
    """
    frequencies = _frequencies(config.rope, config.head_dim)  # [head_dim / 2]
    positions = torch.arange(config.max_positions, dtype=torch.float32)
    angles = torch.outer(positions, frequencies)  # [positions, head_dim / 2]
    cosine = torch.cat([angles.cos(), angles.cos()], dim=-1).unsqueeze(1)
    sine = torch.cat([-angles.sin(), angles.sin()], dim=-1).unsqueeze(1)
    return cosine.to(device=device, dtype=dtype), sine.to(device=device, dtype=dtype)


def _frequencies(rope: RopeConfig, head_dim: int) -> Tensor:
    steps = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / (rope.theta**steps)
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        return _stretch_long_waves(frequencies, rope)
    return frequencies


def _stretch_long_waves(frequencies: Tensor, rope: RopeConfig) -> Tensor:
    wavelengths = 2 * math.pi / frequencies
    turns = rope.original_max_positions / wavelengths  # full turns within the original context
    keep = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    keep = keep.clamp(0.0, 1.0)
    return frequencies * keep + (frequencies / rope.factor) * (1.0 - keep)
