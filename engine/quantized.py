"""The forward with 8-bit weights and 16-bit activations (W8A16) on a CPU, run whole by the C++ in `native/`.

In and out as `engine.model.Llama`: a `ForwardBatch` and a cache in, `Forwarded` out. Rows are independent
of each other to the last bit, whatever the batch and however prompts are cut up. About half the bytes of
bfloat16 are read a step, and Python runs once a step instead of a thousand times.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache, cached_property
from weakref import finalize

import torch
from torch import Tensor

from engine.checkpoint import ModelConfig
from engine.kv_cache import KVCache
from engine.linear import Head, make_head
from engine.model import ForwardBatch, Forwarded, check_capture
from engine.native.library import Parts, Step, load_library
from engine.rope import rotary_table

_HEAD_DIMS = frozenset({16, 32, 48, 64, 80, 96, 128, 256})  # those that attention.h has code for


class QuantizedLlama:
    """Weights in eight bits with a scale for every 64 of a column; keys and values are bfloat16 (`dtype`).

    Values lie in the cache's blocks as `native/attention.h` reads them: its caches are not for another model.
    """

    dtype = torch.bfloat16
    device = torch.device("cpu")
    number_format = "w8a16"

    def __init__(self, config: ModelConfig, weights: dict[str, Tensor]) -> None:
        """KeyError where a tensor is missing, NativeUnavailable where there is no library."""
        self.config = config
        self._library = load_library()
        self.embedding = weights["model.embed_tokens.weight"].to(torch.bfloat16).contiguous()  # [V, D]
        tied = config.tied_embeddings
        self.head_weight = (
            self.embedding if tied else weights["lm_head.weight"].to(torch.bfloat16).contiguous()
        )
        table = rotary_table(config, torch.float32, self.device)
        self._cosine, self._sine = (part.squeeze(1).contiguous() for part in table)  # [positions, d]
        final_norm = floats(weights["model.norm.weight"])
        parts = Parts(
            hidden=config.hidden_size,
            inner=config.intermediate_size,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            num_layers=config.num_layers,
            epsilon=config.norm_eps,
            embedding=self.embedding.data_ptr(),
            cosine=self._cosine.data_ptr(),
            sine=self._sine.data_ptr(),
            final_norm=final_norm.data_ptr(),
        )
        self._model = self._library.sparkgate_new(parts, config.vocab_size, self.head_weight.data_ptr())
        finalize(self, self._library.sparkgate_free, self._model)
        for index in range(config.num_layers):
            self._set_layer(index, weights)
        set_weight(self._library, self._model, 0, 4, self.head_weight)

    @cached_property
    def head(self) -> Head:
        """The output head in bfloat16, made when it first computes: the forward has its own."""
        weight = self.head_weight
        made = cache(lambda: make_head(weight))
        return lambda states: made()(states)

    @property
    def has_amx(self) -> bool:
        """Whether products run on AMX tiles."""
        return bool(self._library.sparkgate_has_amx(self._model))

    def use_amx(self, wanted: bool) -> None:
        """Choose the instructions; the results are the same to the last bit."""
        self._library.sparkgate_use_amx(self._model, wanted)

    def _set_layer(self, index: int, weights: dict[str, Tensor]) -> None:
        def load(name: str) -> Tensor:
            return weights[f"model.layers.{index}.{name}.weight"]

        qkv = torch.cat([load(f"self_attn.{part}_proj") for part in "qkv"])
        gate_up = torch.cat([load("mlp.gate_proj"), load("mlp.up_proj")])
        norms = ["input_layernorm", "post_attention_layernorm"]
        if self.config.has_head_norms:
            norms += ["self_attn.q_norm", "self_attn.k_norm"]
        products = [qkv, load("self_attn.o_proj"), gate_up, load("mlp.down_proj")]
        set_layer(self._library, self._model, index, products, [load(name) for name in norms])

    def forward(self, batch: ForwardBatch, cache: KVCache, capture: tuple[int, ...] = ()) -> Forwarded:
        """Compute all rows, store their keys and values; see `engine.model.Llama.forward`."""
        config = self.config
        check_capture(capture, config.num_layers)
        num_rows, num_logits = len(batch.token_ids), len(batch.logit_rows)
        logits = torch.empty(num_logits, config.vocab_size)
        features = torch.empty(num_rows, len(capture) * config.hidden_size) if capture else None
        tables, first_rows, widths = _sequences(batch)
        step = Step(
            num_rows=num_rows,
            num_sequences=len(tables),
            num_logits=num_logits,
            num_captured=len(capture),
            token_ids=batch.token_ids.data_ptr(),
            positions=batch.positions.data_ptr(),
            slots=batch.slots.data_ptr(),
            first_rows=_wholes(first_rows),
            widths=_wholes(widths),
            block_ids=_wholes(tables),
            logit_rows=batch.logit_rows.data_ptr(),
            captured=_wholes(capture),
            cache=_wholes([layer.data_ptr() for layer in cache.layers]),
            logits=logits.data_ptr(),
            features=features.data_ptr() if features is not None else None,
        )
        self._library.sparkgate_forward(self._model, step)
        return Forwarded(logits, features.to(self.dtype) if features is not None else None)


def can_quantise(config: ModelConfig) -> bool:
    """Whether the C++ forward, which works on sixteen values at a time, takes these sizes."""
    is_even = config.hidden_size % 16 == 0 and config.intermediate_size % 16 == 0
    return is_even and config.head_dim in _HEAD_DIMS


def set_layer(
    library: ctypes.CDLL, decoder: int, index: int, weights: Sequence[Tensor], norms: Sequence[Tensor]
) -> None:
    """Give a decoder of the library its layer. `weights` [out, in]: queries' with keys' and values', attention's
    out, gates with `up`, the MLP's out. `norms`: before attention, before the MLP, and of heads of queries and of
    keys if there are some."""
    for which, weight in enumerate(weights):
        set_weight(library, decoder, index, which, weight)
    for which, norm in enumerate(norms):
        values = floats(norm)
        library.sparkgate_set_norm(decoder, index, which, values.data_ptr(), len(values))


def set_weight(library: ctypes.CDLL, decoder: int, layer: int, which: int, weight: Tensor) -> None:
    """weight [columns, depth]; the numbers of `which` are those of decoder.h."""
    values = floats(weight)
    library.sparkgate_set_weight(decoder, layer, which, values.data_ptr(), *values.shape)


def _sequences(batch: ForwardBatch) -> tuple[list[int], list[int], list[int]]:
    """Address of each sequence's block numbers, its first row and its number of rows."""
    tables: list[int] = []
    first_rows: list[int] = []
    widths: list[int] = []
    for group in batch.groups:
        stride = len(group.block_ids) // group.batch * group.block_ids.element_size()
        for index in range(group.batch):
            tables.append(group.block_ids.data_ptr() + index * stride)
            first_rows.append(group.first_row + index * group.width)
            widths.append(group.width)
    return tables, first_rows, widths


def _wholes(values: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


def floats(weight: Tensor) -> Tensor:
    """As the library takes weights."""
    return weight.to(torch.float32).contiguous()
