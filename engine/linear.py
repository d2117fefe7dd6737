"""Matrix multiplications with the weights laid out for the processor that runs them.

On a CPU with bfloat16 instructions oneDNN keeps its own packed copy of each weight and fuses what
follows (adding the residual, SwiGLU) into the product: measured 1.3 to 1.8 times as fast as
`F.linear` at few rows. Everywhere else these are plain `F.linear` calls.

In bfloat16 on a CPU no bit of a row depends on the rows beside it, as long as they are no more than
`TILE_ROWS` in all. Where the products of some size would, `make_linear` and its like fill the tile up.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

TILE_ROWS = 32


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
        # Not a matrix product, whose order of adding up depends on the number of rows.
        exact = self.weight[leading].float().mul_(x.float().unsqueeze(1)).sum(-1)  # [R, leading]
        return logits.scatter_(1, leading, exact)


class InTile:
    """A `SwiGLU` or `Head` that never sees fewer rows than a tile has."""

    def __init__(self, layer: SwiGLU | Head) -> None:
        self.layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        return self.layer(_fill_tile(x))[: len(x)]


class LinearInTile:
    """A `Linear` that never sees fewer rows than a tile has."""

    def __init__(self, layer: Linear) -> None:
        self.layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        return self.layer(_fill_tile(x))[: len(x)]

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        return self.layer.add_to(_fill_tile(residual), _fill_tile(x))[: len(x)]


def make_linear(weight: Tensor) -> Linear:
    """The product with this weight [out, in]."""
    layer = PackedLinear(weight) if can_pack(weight.dtype, weight.device) else PlainLinear(weight)
    return LinearInTile(layer) if needs_tile(weight) else layer


def make_swiglu(gate: Tensor, up: Tensor) -> SwiGLU:
    """The gated product with these weights [out, in]."""
    if can_pack(gate.dtype, gate.device):
        packed = PackedSwiGLU(gate, up)
        return InTile(packed) if needs_tile(gate) else packed
    plain = PlainSwiGLU(gate, up)
    return InTile(plain) if needs_tile(plain.weight) else plain


def make_head(weight: Tensor) -> Head:
    """The head with this weight [vocabulary, hidden]."""
    head = PackedHead(weight) if can_pack(weight.dtype, weight.device) else PlainHead(weight)
    return InTile(head) if needs_tile(weight) else head


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether oneDNN's packed bfloat16 products exist here."""
    return device.type == "cpu" and dtype == torch.bfloat16 and has_fast_bfloat16()


def needs_tile(weight: Tensor) -> bool:
    """Whether, in bfloat16 on a CPU, the rounding of its products depends on the number of rows."""
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return False
    return not _is_steady(can_pack(weight.dtype, weight.device), *weight.shape, torch.get_num_threads())


@cache
def _is_steady(is_packed: bool, columns: int, depth: int, num_threads: int) -> bool:
    """Tried out on sums that come to 0, so that what is left shows in which order they were added up.

    Libraries choose their kernels by size, threads and processor, and do not say how.
    """
    noise = torch.Generator().manual_seed(0)
    other_half = torch.randperm(depth // 2, generator=noise)

    def cubes(count: int) -> Tensor:  # of many magnitudes
        return torch.randn(count, depth // 2, generator=noise, dtype=torch.bfloat16) ** 3

    row, some = cubes(1), cubes(64)
    row, some = torch.cat([row, -row[:, other_half]], 1), torch.cat([some, some[:, other_half]], 1)
    rows = F.pad(row, (0, depth % 2)).repeat(TILE_ROWS, 1)
    weight = F.pad(some, (0, depth % 2)).repeat(-(-columns // len(some)), 1)[:columns]
    layer = PackedLinear(weight) if is_packed else PlainLinear(weight)
    expected = layer(rows)[0]
    return all(bool((layer(rows[:count]) == expected).all()) for count in range(1, TILE_ROWS + 1))


def _fill_tile(rows: Tensor) -> Tensor:
    """Rows of zeros after these, if they are fewer than a tile has."""
    return F.pad(rows, (0, 0, 0, max(0, TILE_ROWS - len(rows))))


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
