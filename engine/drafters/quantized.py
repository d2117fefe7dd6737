"""The arithmetic of a block drafter with 8-bit weights and 16-bit rows (W8A16), run whole by the C++ in `native/`.

In and out as `engine.drafters.dspark.BlockDrafter`, which this follows but for the number format: one call
takes context in, one makes a proposal. A sequence's drafts are the same to the last bit in any company.
Context lies in its cache as `native/attention.h` reads it: the cache is not for another drafter.
B = sequences, n = slots that predict, D = hidden size, V = drafter's vocabulary.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING
from weakref import finalize

import torch
from torch import Tensor

from engine.drafters.base import ContextRows, DraftBatch, Proposal
from engine.drafters.context import DraftCache
from engine.drafters.layers import RotaryTable
from engine.drafters.markov import AllBiases
from engine.linear import PlainSwiGLU
from engine.native.library import ContextStep, DraftParts, DraftStep, Parts, load_library
from engine.quantized import floats, set_layer, set_weight

if TYPE_CHECKING:
    from engine.drafters.dspark import BlockDrafter


class QuantizedBlock:
    """A block drafter's weights in eight bits."""

    def __init__(self, drafter: BlockDrafter, head_weight: Tensor, rotary: RotaryTable) -> None:
        """`head_weight` [V, D]; `rotary` in float32; the drafter's projections must be plain.

        NativeUnavailable where there is no library.
        """
        attention, markov, confidence = drafter.layers[0].attention, drafter.markov, drafter.confidence
        self._num_slots, self._vocabulary = drafter.num_slots, drafter.vocabulary
        self._num_columns, hidden_size = head_weight.shape
        self._has_confidence = confidence is not None
        fusion, final_norm = drafter.feature_projection.weight, floats(drafter.final_norm.weight)
        feature_norm = floats(drafter.feature_norm.weight)
        scorer = None if confidence is None else floats(confidence.weight)
        markov_rows = None if markov is None else markov.embedding.contiguous()
        # The C++ reads these at each step, and copies the others.
        self._kept = (drafter.embedding, rotary, scorer, markov_rows, self._vocabulary)
        parts = Parts(
            hidden=hidden_size,
            inner=drafter.layers[0].mlp_out.weight.shape[1],
            num_heads=len(attention.queries.weight) // attention.head_dim,
            num_kv_heads=attention.num_kv_heads,
            head_dim=attention.head_dim,
            num_layers=len(drafter.layers),
            epsilon=drafter.final_norm.eps,
            embedding=drafter.embedding.data_ptr(),
            cosine=rotary.cosine.data_ptr(),
            sine=rotary.sine.data_ptr(),
            final_norm=final_norm.data_ptr(),
        )
        draft_parts = DraftParts(
            width=drafter.block_size,
            num_slots=drafter.num_slots,
            mask_token=drafter.mask_token_id,
            num_features=fusion.shape[1],
            rank=0 if markov_rows is None else markov_rows.shape[1],
            vocabulary=_address(self._vocabulary),
            feature_norm=feature_norm.data_ptr(),
            markov_rows=_address(markov_rows),
            confidence=_address(scorer),
            confidence_size=0 if scorer is None else scorer.numel(),
            confidence_bias=0.0 if confidence is None or confidence.bias is None else float(confidence.bias),
        )
        self._library = load_library()
        self._drafter = self._library.sparkgate_new_drafter(parts, draft_parts)
        finalize(self, self._library.sparkgate_free_drafter, self._drafter)
        for index, layer in enumerate(drafter.layers):
            assert isinstance(layer.gate_up, PlainSwiGLU)
            own, norms = layer.attention, [layer.input_norm, layer.mlp_norm]
            if own.query_norm is not None and own.key_norm is not None:
                norms += [own.query_norm, own.key_norm]
            qkv = torch.cat([own.queries.weight, own.keys_values.weight])
            weights = [qkv, own.out.weight, layer.gate_up.weight, layer.mlp_out.weight]
            set_layer(self._library, self._drafter, index, weights, [norm.weight for norm in norms])
        set_weight(self._library, self._drafter, 0, 4, head_weight)
        self._set_own(0, fusion)
        if markov is not None:
            assert isinstance(markov.biases, AllBiases)
            self._set_own(1, markov.biases.projection.weight)

    def _set_own(self, which: int, weight: Tensor) -> None:
        """weight [columns, depth]; the numbers of `which` are those of drafting.cpp."""
        source = floats(weight)
        self._library.sparkgate_set_draft_weight(self._drafter, which, source.data_ptr(), *source.shape)

    @property
    def has_amx(self) -> bool:
        """Whether products run on AMX tiles."""
        return bool(self._library.sparkgate_has_amx(self._drafter))

    def use_amx(self, wanted: bool) -> None:
        """Choose the instructions; the results are the same to the last bit."""
        self._library.sparkgate_use_amx(self._drafter, wanted)

    def extend(self, rows: ContextRows, cache: DraftCache) -> None:
        features = rows.features.to(torch.bfloat16).contiguous()
        step = ContextStep(
            num_rows=len(features),
            features=features.data_ptr(),
            positions=rows.positions.data_ptr(),
            slots=rows.slots.data_ptr(),
            cache=_addresses(cache),
        )
        self._library.sparkgate_extend(self._drafter, step)

    def propose(self, batch: DraftBatch, cache: DraftCache) -> Proposal:
        """With confidence as the head gives it."""
        shape = (len(batch.anchors), self._num_slots)
        token_ids = torch.empty(shape, dtype=torch.long)
        confidence = torch.empty(shape) if self._has_confidence else None
        token_probs = draft_probs = None
        if batch.temperatures is not None and batch.uniforms is not None:
            token_probs, draft_probs = torch.empty(shape), torch.empty(*shape, self._num_columns)
        step = DraftStep(
            num_sequences=len(batch.anchors),
            num_blocks=batch.block_ids.shape[1],
            anchors=batch.anchors.data_ptr(),
            starts=batch.starts.data_ptr(),
            block_ids=batch.block_ids.data_ptr(),
            temperatures=_address(batch.temperatures),
            uniforms=_address(batch.uniforms),
            cache=_addresses(cache),
            token_ids=token_ids.data_ptr(),
            token_probs=_address(token_probs),
            draft_probs=_address(draft_probs),
            confidence=_address(confidence),
        )
        self._library.sparkgate_propose(self._drafter, step)
        lengths = torch.full_like(batch.starts, self._num_slots)
        return Proposal(token_ids, lengths, token_probs, draft_probs, self._vocabulary, confidence)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _addresses(cache: DraftCache) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(cache.layers))(*(layer.data_ptr() for layer in cache.layers))
