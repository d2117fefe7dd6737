"""The forward pass of Llama and Qwen3 models over a ragged batch and a paged cache.

In: a `ForwardBatch` (built by `engine.batch`). Out: logits for the rows asked for, and the outputs of
the layers a drafter reads; keys and values go to the cache. It does not know what a request is: rows
of decoding, prefill chunks of any length and any mix of them look the same. N = rows, D = hidden size,
H/K = heads/kv heads, d = head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.checkpoint import ModelConfig
from engine.kv_cache import KVCache
from engine.linear import Head, Linear, SwiGLU, make_head, make_linear, make_swiglu
from engine.rope import rotary_table

SCORE_DEPTH = 32  # with heads of no multiple of it, how a CPU rounds scores depends on the number of rows
LAST_HIDDEN = -1  # captured after any layers: the state after the final norm, which the head reads


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """Sequences with the same number of new rows, attended to in one padded call.

    Its rows are `first_row` to `first_row + batch * width`. `mask` is added to the scores,
    [batch, 1, 1 or width * heads per kv head, tokens]; None where every key may be seen.
    """

    first_row: int
    batch: int
    width: int
    num_keys: int
    block_ids: Tensor  # [batch * blocks]
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """One step's rows: what they are, where they stand, where their keys and values go."""

    token_ids: Tensor  # [N]
    positions: Tensor  # [N]
    slots: Tensor  # [N]
    groups: tuple[AttentionGroup, ...]
    logit_rows: Tensor  # [R] rows whose logits are wanted


@dataclass(frozen=True, slots=True)
class Forwarded:
    """What a forward computed. `features` is None where nothing was captured."""

    logits: Tensor  # [R, V] float32, the wanted rows
    features: Tensor | None  # [N, captured * D], every row: what was captured, side by side


class Model(Protocol):
    """What runs the forward. `dtype` is that of keys, values and features; `number_format` names the weights'.

    `embedding` and `head_weight` [V, D], one tensor where they are tied, and `head` are there for drafters.
    """

    config: ModelConfig
    dtype: torch.dtype
    device: torch.device
    number_format: str
    embedding: Tensor
    head_weight: Tensor

    @property
    def head(self) -> Head:
        """The output head: states after the final norm in `dtype` to logits."""

    def forward(self, batch: ForwardBatch, cache: KVCache, capture: tuple[int, ...] = ()) -> Forwarded:
        """Compute all rows, store their keys and values; `capture` names layers whose outputs are wanted,
        then `LAST_HIDDEN` where that is."""


@dataclass(frozen=True, slots=True)
class Layer:
    attention_norm: Tensor
    qkv: Linear
    head_norms: Tensor | None  # [H + K, d], queries' then keys' (Qwen3)
    attention_out: Linear
    mlp_norm: Tensor
    gate_up: SwiGLU
    mlp_out: Linear


class Llama:
    """Weights in `dtype` on `device`, ready to run. float32 follows transformers' arithmetic."""

    def __init__(
        self, config: ModelConfig, weights: dict[str, Tensor], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.config, self.dtype, self.device = config, dtype, device
        self.number_format = str(dtype).removeprefix("torch.")

        def load(name: str) -> Tensor:
            return weights[f"model.{name}.weight"].to(device=device, dtype=dtype)

        self.embedding = load("embed_tokens")  # [V, D]
        self.layers = []
        for index in range(config.num_layers):
            at = f"layers.{index}"
            gate, up = load(f"{at}.mlp.gate_proj"), load(f"{at}.mlp.up_proj")
            self.layers.append(
                Layer(
                    attention_norm=load(f"{at}.input_layernorm"),
                    qkv=make_linear(torch.cat([load(f"{at}.self_attn.{part}_proj") for part in "qkv"])),
                    head_norms=self._head_norms(at, load) if config.has_head_norms else None,
                    attention_out=make_linear(load(f"{at}.self_attn.o_proj")),
                    mlp_norm=load(f"{at}.post_attention_layernorm"),
                    gate_up=make_swiglu(gate, up),
                    mlp_out=make_linear(load(f"{at}.mlp.down_proj")),
                )
            )
        self.final_norm = load("norm")
        tied = config.tied_embeddings
        self.head_weight = self.embedding if tied else weights["lm_head.weight"].to(device, dtype)
        self.head: Head = make_head(self.head_weight)
        self.cosine, self.sine = rotary_table(config, dtype, device)  # [positions, 1, d] each

    def _head_norms(self, at: str, load: Callable[[str], Tensor]) -> Tensor:
        """The weights of both norms, repeated for the heads they act on: [H + K, d]."""
        config = self.config
        queries, keys = load(f"{at}.self_attn.q_norm"), load(f"{at}.self_attn.k_norm")
        return torch.cat([queries.expand(config.num_heads, -1), keys.expand(config.num_kv_heads, -1)])

    @torch.inference_mode()
    def forward(self, batch: ForwardBatch, cache: KVCache, capture: tuple[int, ...] = ()) -> Forwarded:
        """Compute all rows, store their keys and values.

        `capture` names layers by index, strictly increasing, the last one excluded: their outputs (the
        residual stream before the next norm) become the features. `LAST_HIDDEN`, alone or after them, adds
        the state after the final norm. ValueError for anything else.
        """
        check_capture(capture, self.config.num_layers)
        features = None
        if capture:
            shape = (len(batch.token_ids), len(capture), self.config.hidden_size)
            features = torch.empty(shape, dtype=self.dtype, device=self.device)  # [N, captured, D]
        hidden = F.embedding(batch.token_ids, self.embedding)  # [N, D]
        cosine = self.cosine.index_select(0, batch.positions)  # [N, 1, d]
        sine = self.sine.index_select(0, batch.positions)
        for index, layer in enumerate(self.layers):
            normed = self._norm(hidden, layer.attention_norm)
            attended = self._attend(index, layer, layer.qkv(normed), cosine, sine, batch, cache)
            hidden = layer.attention_out.add_to(hidden, attended)
            normed = self._norm(hidden, layer.mlp_norm)
            hidden = layer.mlp_out.add_to(hidden, layer.gate_up(normed))
            if features is not None and index in capture:
                features[:, capture.index(index)] = hidden
        if features is not None and capture[-1] == LAST_HIDDEN:
            last = self._norm(hidden, self.final_norm)  # [N, D]
            features[:, -1] = last
            wanted = last.index_select(0, batch.logit_rows)
        else:
            wanted = self._norm(hidden.index_select(0, batch.logit_rows), self.final_norm)
        return Forwarded(self.head(wanted), features.flatten(1) if features is not None else None)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.config.norm_eps)

    def _attend(
        self,
        index: int,
        layer: Layer,
        qkv: Tensor,
        cosine: Tensor,
        sine: Tensor,
        batch: ForwardBatch,
        cache: KVCache,
    ) -> Tensor:
        """qkv [N, (H + 2K) * d] -> attention output [N, H * d]; the new keys and values are stored first."""
        config = self.config
        num_heads, num_rotated = config.num_heads, config.num_heads + config.num_kv_heads
        heads = qkv.view(-1, num_rotated + config.num_kv_heads, config.head_dim)  # [N, H + 2K, d]
        rotated = heads[:, :num_rotated]
        if layer.head_norms is not None:
            rotated.copy_(F.rms_norm(rotated, (config.head_dim,), None, config.norm_eps) * layer.head_norms)
        # roll puts each half where the other was; the sign of rotate-half is in the sine table
        turned = torch.addcmul(rotated * cosine, rotated.roll(config.head_dim // 2, -1), sine)
        rotated.copy_(turned)
        cache.write(index, batch.slots, heads[:, num_heads:])
        queries = heads[:, :num_heads]
        outputs = [self._attend_group(index, queries, group, cache) for group in batch.groups]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _attend_group(self, index: int, queries: Tensor, group: AttentionGroup, cache: KVCache) -> Tensor:
        """Attention of one group, [batch * width, H * d].

        The query heads that share a kv head are laid out as extra query rows, so that keys and values
        are never repeated and every SDPA backend takes the call.
        """
        config = self.config
        shared = config.num_heads // config.num_kv_heads
        count = group.batch * group.width
        rows = queries[group.first_row : group.first_row + count]
        rows = rows.reshape(group.batch, group.width, config.num_kv_heads, shared, config.head_dim)
        folded = rows.permute(0, 2, 3, 1, 4).reshape(  # [B, K, shared * width, d]
            group.batch, config.num_kv_heads, shared * group.width, config.head_dim
        )
        keys, values = cache.read(index, group.block_ids, group.batch)  # [B, K, tokens, d]
        keys, values = keys[:, :, : group.num_keys], values[:, :, : group.num_keys]
        missing = -config.head_dim % SCORE_DEPTH if self.device.type == "cpu" else 0
        if missing:
            folded, keys, values = (F.pad(part, (0, missing)) for part in (folded, keys, values))
        out = F.scaled_dot_product_attention(
            folded, keys, values, attn_mask=group.mask, scale=config.head_dim**-0.5
        )
        out = out[..., : config.head_dim].view(
            group.batch, config.num_kv_heads, shared, group.width, config.head_dim
        )
        return out.permute(0, 3, 1, 2, 4).reshape(count, config.num_heads * config.head_dim)


def check_capture(capture: tuple[int, ...], num_layers: int) -> None:
    """ValueError unless these are layers whose outputs drafters may read, `LAST_HIDDEN`, or both in this order.

    The last layer is refused: training and evaluation tools disagree on whether its output is normed.
    """
    layers = capture[:-1] if capture[-1:] == (LAST_HIDDEN,) else capture
    rising = all(low < high for low, high in pairwise(layers))
    if not rising or any(not 0 <= index < num_layers - 1 for index in layers):
        raise ValueError(
            f"captured layers {list(layers)} must rise strictly within 0 to {num_layers - 2}; "
            f"the last of {num_layers} layers cannot be captured"
        )
