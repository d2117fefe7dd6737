"""Matrix multiplications with the weights laid out for the processor that runs them.

On a CPU with bfloat16 instructions oneDNN keeps its own packed copy of each weight and fuses what
follows (adding the residual, SwiGLU) into the product: measured 1.3 to 1.8 times as fast as
`F.linear` at few rows. Everywhere else these are plain `F.linear` calls.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Linear(Protocol):
    """x [rows, in] -> [rows, out], no bias."""

    def __call__(self, x: Tensor) -> Tensor:
        """The product."""

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """residual + product; may overwrite `residual`."""


class SwiGLU(Protocol):
    """x [rows, in] -> silu(gate(x)) * up(x), [rows, out]."""

    def __call__(self, x: Tensor) -> Tensor:
        """The gated product."""


class Head(Protocol):
    """x [rows, hidden] -> float32 logits [rows, vocabulary]."""

    def __call__(self, x: Tensor) -> Tensor:
        """The logits."""


class PlainLinear:
    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        return residual.add_(F.linear(x, self.weight))


class PlainSwiGLU:
    def __init__(self, gate: Tensor, up: Tensor) -> None:
        self.weight = torch.cat([gate, up])

    def __call__(self, x: Tensor) -> Tensor:
        gate, up = F.linear(x, self.weight).chunk(2, dim=-1)
        return F.silu(gate).mul_(up)


class PackedLinear:
    def __init__(self, weight: Tensor) -> None:
        self.weight = _pack(weight)

    def __call__(self, x: Tensor) -> Tensor:
        return _linear(x, self.weight, None, "none", [], "")

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        return _linear_binary(x, residual, self.weight, None, "add")


class PackedSwiGLU:
    def __init__(self, gate: Tensor, up: Tensor) -> None:
        self.gate, self.up = _pack(gate), _pack(up)

    def __call__(self, x: Tensor) -> Tensor:
        gate = _linear(x, self.gate, None, "swish", [], "")
        return _linear_binary(x, gate, self.up, None, "mul")


class PlainHead:
    """Logits in float32; on CUDA they leave the product that way, never rounded to the weights' format."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32 and x.is_cuda:
            return torch.mm(x, self.weight.t(), out_dtype=torch.float32)
        return F.linear(x, self.weight).float()


class PackedHead:
    """oneDNN rounds its products to bfloat16, eight bits, and so makes ties of near winners.

    The leading candidates are therefore computed again in float32 (3 % of a step; without it the greedy
    choice differs from float32's nearly twice as often).
    """

    NUM_EXACT = 32

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.packed = weight, _pack(weight)

    def __call__(self, x: Tensor) -> Tensor:
        logits = _linear(x, self.packed, None, "none", [], "").float()  # [R, V]
        leading = logits.topk(min(self.NUM_EXACT, logits.shape[-1]), dim=-1, sorted=False).indices
        exact = self.weight[leading].float() @ x.float().unsqueeze(-1)  # [R, leading, 1]
        return logits.scatter_(1, leading, exact.squeeze(-1))


def make_head(weight: Tensor) -> Head:
    """The head with this weight [vocabulary, hidden], packed where that can be."""
    return PackedHead(weight) if can_pack(weight.dtype, weight.device) else PlainHead(weight)


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether oneDNN's packed bfloat16 products exist here."""
    return device.type == "cpu" and dtype == torch.bfloat16 and has_fast_bfloat16()


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512_BF16 or AMX)."""
    cpu: Any = torch.cpu
    return bool(torch.backends.mkldnn.is_available() and cpu._is_avx512_bf16_supported())


def has_tiles() -> bool:
    """Whether this CPU multiplies whole tiles of int8 and bfloat16 (AMX)."""
    cpu: Any = torch.cpu
    return bool(cpu._is_amx_tile_supported())


def _pack(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())


def _linear(x: Tensor, weight: Tensor, bias: None, post: str, scalars: list[float], algorithm: str) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, post, scalars, algorithm)


def _linear_binary(x: Tensor, other: Tensor, weight: Tensor, bias: None, post: str) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.binary(x, other, weight, bias, post)
