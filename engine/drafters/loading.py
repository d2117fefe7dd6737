"""From a drafter's folder to a drafter, ready to run beside its target.

Every tensor's shape is checked against the config and the target; embeddings and heads that equal the
target's share its storage; tensors nobody asked for are reported. The layout is decided in
`engine.drafters.settings`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoint import read_weights
from engine.drafters.base import Drafter
from engine.drafters.chain import ChainDrafter, Eagle3Fusion, MtpFusion
from engine.drafters.dspark import BlockDrafter
from engine.drafters.layers import Attention, DraftLayer, RotaryTable, swiglu
from engine.drafters.markov import (
    AllBiases,
    Biases,
    GatedHead,
    MarkovHead,
    RecurrentHead,
    SomeBiases,
    VanillaHead,
)
from engine.drafters.quantized import QuantizedBlock
from engine.drafters.settings import DraftSettings, MarkovKind, read_settings
from engine.drafters.temperatures import read_temperatures
from engine.drafters.tensors import DraftTensors
from engine.errors import StartError
from engine.linear import Head, PlainHead, make_head
from engine.quantized import can_quantise
from engine.rope import rotary_table

KNOWN_EXTRAS = frozenset({"verifier_norm.weight", "verifier_lm_head.weight"})  # the target has them


@dataclass(frozen=True, slots=True)
class TargetParts:
    """What a drafter needs to know of its target, and may share with it."""

    num_layers: int
    embedding: Tensor  # [V, D] in the format that the drafter shall run in, on its device
    head_weight: Tensor  # [V, D]
    head: Head  # computes with `head_weight`
    max_positions: int
    is_quantized: bool = False  # runs in w8a16; drafters then do too where they can


@dataclass(frozen=True, slots=True)
class Loaded:
    """A drafter and what is to be told about its file."""

    drafter: Drafter
    shares_embedding: bool
    shares_head: bool
    unused: tuple[str, ...]  # tensors of the file that nothing reads


def load_drafter(folder: Path, target: TargetParts, *, draft_topk: int | None = None) -> Loaded:
    """Load a DSpark, DFlash, Eagle3 or MTP-1 drafter. StartError where it does not fit or is ambiguous.

    For DSpark and DFlash: each slot chooses among its `draft_topk` (1 or more; None: all) likeliest tokens
    before the Markov bias, which is then computed for these alone. Rotary tables, norms and products are in
    the format of the target's embedding.
    """
    settings = read_settings(folder)
    _check_target(folder, settings, target)
    stored = read_weights(folder)
    quantizes = target.is_quantized and draft_topk is None and _can_quantise(settings, stored)
    tensors = DraftTensors(folder, stored, target.embedding, packs=not quantizes)
    embedding, shares_embedding = _embedding(tensors, target)
    vocabulary = read_vocabulary(tensors, settings)
    head_weight, shares_head = _head_weight(tensors, settings, target, vocabulary)
    if head_weight is target.head_weight:
        head = target.head
    else:
        head = PlainHead(head_weight) if quantizes else make_head(head_weight)
    rotary = _rotary(settings, target, target.embedding.dtype)
    shared = _Shared(settings, tensors, embedding, vocabulary, head, rotary)
    drafter: Drafter
    if settings.kind == "dspark":
        drafter = _block_drafter(shared, draft_topk)
        if quantizes:
            precise = _rotary(settings, target, torch.float32)
            drafter.quantized = QuantizedBlock(drafter, head_weight, precise)
    elif settings.kind == "eagle3":
        drafter = _eagle3(shared)
    else:
        drafter = _mtp(shared)
    unused = sorted(set(tensors.stored) - tensors.used - KNOWN_EXTRAS)
    if settings.kind == "mtp":  # its file may be the target's own
        unused = [name for name in unused if name.startswith("mtp.")]
    return Loaded(drafter, shares_embedding, shares_head, tuple(unused))


@dataclass(frozen=True, slots=True)
class _Shared:
    """What every kind is built from."""

    settings: DraftSettings
    tensors: DraftTensors
    embedding: Tensor
    vocabulary: Tensor | None
    head: Head
    rotary: RotaryTable


def _check_target(folder: Path, settings: DraftSettings, target: TargetParts) -> None:
    config, (vocab_size, hidden_size) = folder / "config.json", target.embedding.shape
    for key, ours, theirs in (
        ("hidden_size", settings.layers.hidden_size, hidden_size),
        ("vocab_size", settings.layers.vocab_size, vocab_size),
        ("num_target_layers", settings.num_target_layers, target.num_layers),
    ):
        if ours is not None and ours != theirs:
            raise StartError(f"{config}: {key} is {ours}, the target's is {theirs}: not a drafter for it")
    if any(one >= target.num_layers - 1 for one in settings.target_layer_ids):
        raise StartError(
            f"{config}: features of layers {list(settings.target_layer_ids)} are wanted; "
            f"of {target.num_layers} target layers the last cannot be read"
        )


def _embedding(tensors: DraftTensors, target: TargetParts) -> tuple[Tensor, bool]:
    stored = tensors.maybe("embed_tokens.weight", *target.embedding.shape)
    if stored is None or torch.equal(stored, target.embedding):
        return target.embedding, True
    return stored, False


def _head_weight(
    tensors: DraftTensors, settings: DraftSettings, target: TargetParts, vocabulary: Tensor | None
) -> tuple[Tensor, bool]:
    """The stored head; where there is none the target's, or of its rows those of the drafter's vocabulary."""
    vocab_size = settings.draft_vocab_size or settings.layers.vocab_size
    stored = tensors.maybe("lm_head.weight", vocab_size, settings.layers.hidden_size)
    if settings.draft_vocab_size is None and (stored is None or torch.equal(stored, target.head_weight)):
        return target.head_weight, True
    if stored is None:
        return target.head_weight[vocabulary], True
    return stored, False


def read_vocabulary(tensors: DraftTensors, settings: DraftSettings) -> Tensor | None:
    """Target ids [V] of the drafter's ids, or None where it has them all. StartError where they are unclear.

    `d2t` stores by how much each is further, `t2d` which they are.
    """
    size = settings.layers.vocab_size
    known = tensors.maybe("t2d", size)
    if settings.draft_vocab_size is None:
        moved = tensors.maybe("d2t", size)
        if moved is not None and bool(moved.any()):
            raise StartError(
                f"{tensors.folder}: d2t moves tokens, though the drafter has the whole vocabulary"
            )
        if known is not None and not bool(known.all()):
            raise StartError(f"{tensors.folder}: t2d leaves out tokens, though the drafter has them all")
        return None
    offsets = tensors.take("d2t", settings.draft_vocab_size)
    ids = torch.arange(len(offsets), device=offsets.device) + offsets.long()
    if int(ids.min()) < 0 or int(ids.max()) >= size or len(ids.unique()) != len(ids):
        raise StartError(f"{tensors.folder}: d2t does not map to distinct tokens of the target")
    if known is not None and not torch.equal(known.nonzero().squeeze(1), ids.sort().values):
        raise StartError(f"{tensors.folder}: d2t and t2d do not name the same tokens of the target")
    return ids


def _rotary(settings: DraftSettings, target: TargetParts, dtype: torch.dtype) -> RotaryTable:
    """For every position that a draft of the target may have."""
    layers = replace(settings.layers, max_positions=target.max_positions + settings.num_slots)
    return RotaryTable(*rotary_table(layers, dtype, target.embedding.device))


def _can_quantise(settings: DraftSettings, stored: dict[str, Tensor]) -> bool:
    """Whether the C++ drafts with this: a DSpark or DFlash drafter of its sizes, without a head that it lacks."""
    layers, biases = settings.layers, [name for name in stored if name.endswith(".bias")]
    return (
        settings.kind == "dspark"
        and can_quantise(layers)
        and layers.num_heads * layers.head_dim % 32 == 0
        and settings.markov_rank % 16 == 0
        and not any(f"markov_head.{one}_proj.weight" in stored for one in ("gate", "joint"))
        and all(name.startswith("confidence_head") for name in biases)
    )


def _layer(shared: _Shared, at: str, attention_in: int) -> DraftLayer:
    config, tensors = shared.settings.layers, shared.tensors
    hidden, eps, own = config.hidden_size, config.norm_eps, f"{at}.self_attn"
    kv_size = config.num_kv_heads * config.head_dim
    gate = tensors.take(f"{at}.mlp.gate_proj.weight", config.intermediate_size, hidden)
    up = tensors.take(f"{at}.mlp.up_proj.weight", config.intermediate_size, hidden)
    attention = Attention(
        queries=tensors.projection(f"{own}.q_proj", attention_in, config.num_heads * config.head_dim),
        keys_values=tensors.projection(own, attention_in, kv_size, kv_size, parts=("k_proj", "v_proj")),
        out=tensors.projection(f"{own}.o_proj", config.num_heads * config.head_dim, hidden),
        query_norm=tensors.norm(f"{own}.q_norm", config.head_dim, eps),
        key_norm=tensors.norm(f"{own}.k_norm", config.head_dim, eps),
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
    )
    return DraftLayer(
        input_norm=tensors.norm(f"{at}.input_layernorm", hidden, eps),
        attention=attention,
        mlp_norm=tensors.norm(f"{at}.post_attention_layernorm", hidden, eps),
        gate_up=swiglu(gate, up, packs=tensors.packs),
        mlp_out=tensors.projection(f"{at}.mlp.down_proj", config.intermediate_size, hidden),
    )


def _block_drafter(shared: _Shared, draft_topk: int | None) -> BlockDrafter:
    settings, tensors = shared.settings, shared.tensors
    hidden, eps = settings.layers.hidden_size, settings.layers.norm_eps
    confidence, temperatures = None, None
    if settings.has_confidence:
        size = hidden + (settings.markov_rank if settings.confidence_reads_markov else 0)
        confidence = tensors.projection("confidence_head.proj", size, 1)
        temperatures = _temperatures(shared)
    return BlockDrafter(
        target_layer_ids=settings.target_layer_ids,
        block_size=settings.num_slots,
        mask_token_id=settings.mask_token_id,
        embedding=shared.embedding,
        feature_projection=tensors.projection("fc", len(settings.target_layer_ids) * hidden, hidden),
        feature_norm=tensors.norm("hidden_norm", hidden, eps),
        layers=[_layer(shared, f"layers.{index}", hidden) for index in range(settings.layers.num_layers)],
        final_norm=tensors.norm("norm", hidden, eps),
        head=shared.head,
        rotary=shared.rotary,
        markov=_markov(shared, draft_topk) if settings.markov_rank else None,
        confidence=confidence,
        confidence_reads_markov=settings.confidence_reads_markov,
        confidence_temperatures=temperatures,
        vocabulary=shared.vocabulary,
        samples_anchor=settings.samples_anchor,
        draft_topk=draft_topk,
    )


def _temperatures(shared: _Shared) -> Tensor | None:
    settings = shared.settings
    num_slots = settings.num_slots - (not settings.samples_anchor)
    found = read_temperatures(shared.tensors.folder, num_slots)
    return None if found is None else torch.tensor(found, device=shared.embedding.device)


def _markov(shared: _Shared, draft_topk: int | None) -> MarkovHead:
    settings, tensors = shared.settings, shared.tensors
    rank, hidden = settings.markov_rank, settings.layers.hidden_size
    embedding = tensors.take("markov_head.markov_w1.weight", settings.layers.vocab_size, rank)
    vocab_size = settings.draft_vocab_size or settings.layers.vocab_size
    biases: Biases
    if draft_topk is None:
        biases = AllBiases(tensors.projection("markov_head.markov_w2", rank, vocab_size))
    else:
        biases = SomeBiases(tensors.take("markov_head.markov_w2.weight", vocab_size, rank))
    kind = _markov_kind(tensors, settings)
    if kind == "gated":
        gate = tensors.projection("markov_head.gate_proj", hidden + rank, rank)
        return GatedHead(embedding, biases, gate)
    if kind == "rnn":
        joint = tensors.projection("markov_head.joint_proj", 2 * rank + hidden, 3 * rank)
        return RecurrentHead(embedding, biases, joint)
    return VanillaHead(embedding, biases)


def _markov_kind(tensors: DraftTensors, settings: DraftSettings) -> MarkovKind:
    """What the config says, or else the tensors, which must not speak against it."""
    said, path = settings.markov_kind, tensors.folder / "config.json"
    has_gate, has_joint = (f"markov_head.{one}_proj.weight" in tensors.stored for one in ("gate", "joint"))
    stored: MarkovKind = "rnn" if has_joint else "gated" if has_gate else "vanilla"
    if "rnn" in (said, stored) and not settings.samples_anchor:
        raise StartError(
            f"{path}: markov_head_type rnn with sample_from_anchor false does not say where the state begins"
        )
    if said not in (None, stored) or (has_gate and has_joint):
        raise StartError(
            f"{path}: markov_head_type is {said or 'not given'}, but the file has the tensors of "
            f"{'both a gated and an rnn' if has_gate and has_joint else f'a {stored}'} head"
        )
    return stored


def _eagle3(shared: _Shared) -> ChainDrafter:
    settings, tensors = shared.settings, shared.tensors
    hidden, eps = settings.layers.hidden_size, settings.layers.norm_eps
    return ChainDrafter(
        target_layer_ids=settings.target_layer_ids,
        num_slots=settings.num_slots,
        embedding=shared.embedding,
        fusion=Eagle3Fusion(
            projection=tensors.projection("fc", len(settings.target_layer_ids) * hidden, hidden),
            hidden_norm=tensors.norm("layers.0.hidden_norm", hidden, eps),
        ),
        layer=_layer(shared, "layers.0", 2 * hidden),
        final_norm=tensors.norm("norm", hidden, eps),
        head=shared.head,
        rotary=shared.rotary,
        vocabulary=shared.vocabulary,
    )


def _mtp(shared: _Shared) -> ChainDrafter:
    settings, tensors = shared.settings, shared.tensors
    tensors.prefix = "mtp."
    hidden, eps = settings.layers.hidden_size, settings.layers.norm_eps
    return ChainDrafter(
        target_layer_ids=(),
        num_slots=1,
        embedding=shared.embedding,
        fusion=MtpFusion(
            projection=tensors.projection("fc", 2 * hidden, hidden),
            embedding_norm=tensors.norm("pre_fc_norm_embedding", hidden, eps),
            hidden_norm=tensors.norm("pre_fc_norm_hidden", hidden, eps),
        ),
        layer=_layer(shared, "layers.0", hidden),
        final_norm=tensors.norm("norm", hidden, eps),
        head=shared.head,
        rotary=shared.rotary,
        vocabulary=shared.vocabulary,
        reads_last_hidden=True,
    )
