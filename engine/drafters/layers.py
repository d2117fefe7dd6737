"""The parts that drafters with weights share: projections, rotation, attention, decoder layer.

Rows are flat, as in `engine.model`; attention sees the stored context and scratch rows beside it.
N = rows, B = sequences, w = new rows a sequence, D = hidden size, H/K = heads/kv heads, d = head size,
T = stored positions read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.linear import Linear, PackedLinear, PackedSwiGLU, PlainLinear, PlainSwiGLU, SwiGLU, can_pack


class Projection:
    """x [N, in] -> [N, out], with the bias if there is one."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, packs: bool = True) -> None:
        """`packs`: lay the weight out for the processor where that makes products faster."""
        self.linear: Linear
        if packs and can_pack(weight.dtype, weight.device):
            self.linear = PackedLinear(weight)
        else:
            self.linear = PlainLinear(weight)
        self.bias = bias

    @property
    def weight(self) -> Tensor:
        """[out, in]; there is none once it is packed."""
        assert isinstance(self.linear, PlainLinear)
        return self.linear.weight

    def __call__(self, x: Tensor) -> Tensor:
        out = self.linear(x)
        return out if self.bias is None else out + self.bias


@dataclass(frozen=True, slots=True)
class Norm:
    """Root mean square norm over the last dimension."""

    weight: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosine and signed sine [N, 1, d] of some rows' positions."""

    cosine: Tensor
    sine: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Turn x [N, heads, d]."""
        return torch.addcmul(x * self.cosine, x.roll(x.shape[-1] // 2, -1), self.sine)


@dataclass(frozen=True, slots=True)
class RotaryTable:
    """Tables of `engine.rope`, [positions, 1, d] each, one row for every position that may be asked for."""

    cosine: Tensor
    sine: Tensor

    def at(self, positions: Tensor) -> Rotation:
        known = positions.clamp_min(0)  # a row without a predecessor is not looked at
        return Rotation(self.cosine.index_select(0, known), self.sine.index_select(0, known))


@dataclass(frozen=True, slots=True)
class Attention:
    """Grouped-query attention. The head norms are per head, before the rotation (Qwen3)."""

    queries: Projection
    keys_values: Projection  # keys' rows of the weight, then values'
    out: Projection
    query_norm: Norm | None
    key_norm: Norm | None
    num_kv_heads: int
    head_dim: int

    def query(self, x: Tensor, rotation: Rotation) -> Tensor:
        """x [N, in] -> [N, H, d]"""
        heads = self.queries(x).view(len(x), -1, self.head_dim)
        return rotation(self.query_norm(heads) if self.query_norm else heads)

    def key_value(self, x: Tensor, rotation: Rotation) -> Tensor:
        """x [N, in] -> [N, 2K, d], as the cache stores them."""
        both = self.keys_values(x).view(len(x), 2 * self.num_kv_heads, self.head_dim)
        keys, values = both[:, : self.num_kv_heads], both[:, self.num_kv_heads :]
        return torch.cat([rotation(self.key_norm(keys) if self.key_norm else keys), values], dim=1)

    def attend(self, query: Tensor, stored: tuple[Tensor, Tensor], scratch: Tensor, mask: Tensor) -> Tensor:
        """query [B * w, H, d] -> [B * w, D].

        `stored` are keys and values [B, K, T, d]; `scratch` [B, S, 2K, d] rows that are not stored;
        `mask` [B, 1, 1, T + S] is True where a key may be seen, by every query of the sequence.
        The query heads of a kv head become extra query rows, so that nothing is repeated.
        """
        batch, kv_heads = len(scratch), self.num_kv_heads
        width, shared = len(query) // batch, query.shape[1] // kv_heads
        folded = query.view(batch, width, kv_heads, shared, self.head_dim).permute(0, 2, 3, 1, 4)
        folded = folded.reshape(batch, kv_heads, shared * width, self.head_dim)
        fresh = scratch.transpose(1, 2)  # [B, 2K, S, d]
        keys = torch.cat([stored[0], fresh[:, :kv_heads]], dim=2)
        values = torch.cat([stored[1], fresh[:, kv_heads:]], dim=2)
        out = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask)
        out = out.view(batch, kv_heads, shared, width, self.head_dim).permute(0, 3, 1, 2, 4)
        return self.out(out.reshape(len(query), -1))


@dataclass(frozen=True, slots=True)
class DraftLayer:
    """A decoder layer; who calls it makes the attention's input."""

    input_norm: Norm
    attention: Attention
    mlp_norm: Norm
    gate_up: SwiGLU
    mlp_out: Projection

    def mlp(self, x: Tensor) -> Tensor:
        """x [N, D] plus what the gated network adds to it."""
        return x + self.mlp_out(self.gate_up(self.mlp_norm(x)))


def swiglu(gate: Tensor, up: Tensor, *, packs: bool = True) -> SwiGLU:
    packed = packs and can_pack(gate.dtype, gate.device)
    return PackedSwiGLU(gate, up) if packed else PlainSwiGLU(gate, up)


def visible(first: int, starts: Tensor, num_stored: int, num_scratch: int) -> Tensor:
    """Mask [B, 1, 1, T + S]: the stored rows `first` to `starts` - 1, and all scratch rows."""
    at = torch.arange(num_stored + num_scratch, device=starts.device)
    stored = (at >= first) & (at < starts.unsqueeze(1))  # [B, T + S]
    return ((at >= num_stored) | (stored & (at < num_stored))).view(len(starts), 1, 1, -1)
