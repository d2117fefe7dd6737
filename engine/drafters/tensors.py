"""The tensors of a drafter's file, handed out by name once their shape is right.

In: tensors as stored. Out: tensors, projections and norms in the drafter's format, on its device; and
which names were asked for, so that the rest can be reported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from engine.drafters.layers import Norm, Projection
from engine.errors import StartError


@dataclass(slots=True)
class DraftTensors:
    """StartError where one that is needed is missing or has another shape."""

    folder: Path
    stored: dict[str, Tensor]
    like: Tensor  # its format and device are the drafter's
    packs: bool = True  # projections are laid out for the processor
    prefix: str = ""
    used: set[str] = field(default_factory=set)

    def take(self, name: str, *shape: int) -> Tensor:
        tensor = self.maybe(name, *shape)
        if tensor is None:
            raise StartError(f"{self.folder} lacks the tensor {self.prefix}{name}")
        return tensor

    def maybe(self, name: str, *shape: int) -> Tensor | None:
        full = self.prefix + name
        tensor = self.stored.get(full)
        if tensor is None:
            return None
        if tuple(tensor.shape) != shape:
            raise StartError(
                f"{self.folder}: tensor {full} has the shape {list(tensor.shape)}, expected {list(shape)}"
            )
        self.used.add(full)
        if not tensor.is_floating_point():
            return tensor.to(self.like.device)
        return tensor.to(device=self.like.device, dtype=self.like.dtype)

    def projection(self, name: str, size_in: int, *sizes_out: int, parts: tuple[str, ...] = ()) -> Projection:
        """`name`, or the `parts` under it stacked, each with its size out."""
        names = [f"{name}.{part}" for part in parts] or [name]
        pairs = list(zip(names, sizes_out, strict=True))
        weight = torch.cat([self.take(f"{one}.weight", size, size_in) for one, size in pairs])
        biases = [self.maybe(f"{one}.bias", size) for one, size in pairs]
        given = [bias for bias in biases if bias is not None]
        if given and len(given) != len(biases):
            raise StartError(f"{self.folder}: only some of {', '.join(names)} have a bias")
        return Projection(weight, torch.cat(given) if given else None, packs=self.packs)

    def norm(self, name: str, size: int, eps: float) -> Norm:
        return Norm(self.take(f"{name}.weight", size), eps)
