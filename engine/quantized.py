"""The forward with 8-bit weights and 16-bit activations (W8A16) on a CPU, run whole by the C++ in `native/`.

In and out as `engine.model.Llama`: a `ForwardBatch` and a cache in, `Forwarded` out. Rows are independent
of each other to the last bit, whatever the batch and however prompts are cut up. About half the bytes of
bfloat16 are read a step, and Python runs once a step instead of a thousand times.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cached_property
from weakref import finalize

import torch
from torch import Tensor

from engine.checkpoint import ModelConfig
from engine.kv_cache import KVCache
from engine.linear import Head, make_head
from engine.model import LAST_HIDDEN, ForwardBatch, Forwarded, check_capture
from engine.native.library import Step, load_library
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
        final_norm = _floats(weights["model.norm.weight"])
        self._model = self._library.sparkgate_new(
            config.hidden_size,
            config.intermediate_size,
            config.vocab_size,
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
            config.num_layers,
            config.norm_eps,
            *(
                at.data_ptr()
                for at in (self.embedding, self.head_weight, self._cosine, self._sine, final_norm)
            ),
        )
        finalize(self, self._library.sparkgate_free, self._model)
        for index in range(config.num_layers):
            self._set_layer(index, weights)
        self._set_weight(0, 4, _floats(self.head_weight))

    @cached_property
    def head(self) -> Head:
        """The output head in bfloat16, made when a drafter first asks: the forward has its own."""
        return make_head(self.head_weight)

    @property
    def has_amx(self) -> bool:
        """Whether products run on AMX tiles."""
        return bool(self._library.sparkgate_has_amx(self._model))

    def use_amx(self, wanted: bool) -> None:
        """Choose the instructions; the results are the same to the last bit."""
        self._library.sparkgate_use_amx(self._model, wanted)

    def _set_layer(self, index: int, weights: dict[str, Tensor]) -> None:
        def load(name: str) -> Tensor:
            return _floats(weights[f"model.layers.{index}.{name}.weight"])

        self._set_weight(index, 0, torch.cat([load(f"self_attn.{part}_proj") for part in "qkv"]))
        self._set_weight(index, 1, load("self_attn.o_proj"))
        self._set_weight(index, 2, torch.cat([load("mlp.gate_proj"), load("mlp.up_proj")]))
        self._set_weight(index, 3, load("mlp.down_proj"))
        norms = ["input_layernorm", "post_attention_layernorm"]
        if self.config.has_head_norms:
            norms += ["self_attn.q_norm", "self_attn.k_norm"]
        for which, name in enumerate(norms):
            norm = load(name)
            self._library.sparkgate_set_norm(self._model, index, which, norm.data_ptr(), len(norm))

    def _set_weight(self, layer: int, which: int, weight: Tensor) -> None:
        """weight [columns, depth] float32; the numbers of `which` are those of forward.cpp."""
        columns, depth = weight.shape
        self._library.sparkgate_set_weight(self._model, layer, which, weight.data_ptr(), columns, depth)

    def forward(self, batch: ForwardBatch, cache: KVCache, capture: tuple[int, ...] = ()) -> Forwarded:
        """Compute all rows, store their keys and values; see `engine.model.Llama.forward`."""
        config = self.config
        check_capture(capture, config.num_layers)
        num_rows, num_logits = len(batch.token_ids), len(batch.logit_rows)
        logits = torch.empty(num_logits, config.vocab_size)
        features = torch.empty(num_rows, len(capture) * config.hidden_size) if capture else None
        tables, first_rows, widths = _sequences(batch)
        layers = (config.num_layers,) if capture == (LAST_HIDDEN,) else capture  # as forward.cpp counts
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
            captured=_wholes(layers),
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


def _floats(weight: Tensor) -> Tensor:
    return weight.to(torch.float32).contiguous()
