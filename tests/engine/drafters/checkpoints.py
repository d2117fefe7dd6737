"""Random drafter checkpoints in DeepSpec's, Speculators' and the MTP layout, for a small target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.drafters.loading import TargetParts
from engine.linear import PlainHead

VOCAB, HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM, RANK, EPS = 40, 24, 36, 4, 2, 8, 6, 1e-6
LAYER_IDS = (0, 2)
MAX_POSITIONS = 300  # of the target; its drafters say less
NUM_TARGET_LAYERS = 4
LAYER_SIZES: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "rms_norm_eps": EPS,
    "max_position_embeddings": 256,
    "rope_parameters": {"rope_theta": 10_000.0, "rope_type": "default"},
}
TARGET_SIZES: dict[str, Any] = {  # of a toy model that these drafters fit
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": NUM_TARGET_LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
}
DEEPSPEC: dict[str, Any] = {
    **LAYER_SIZES,
    "architectures": ["Qwen3DSparkModel"],
    "num_hidden_layers": 2,
    "num_target_layers": NUM_TARGET_LAYERS,
    "target_layer_ids": list(LAYER_IDS),
    "block_size": 5,
    "mask_token_id": VOCAB - 1,
    "markov_rank": RANK,
    "markov_head_type": "vanilla",
    "enable_confidence_head": True,
    "confidence_head_with_markov": True,
}
EAGLE3: dict[str, Any] = {
    **LAYER_SIZES,
    "architectures": ["Qwen3Eagle3Model"],
    "num_hidden_layers": 1,
    "num_target_layers": NUM_TARGET_LAYERS,
    "target_layer_ids": list(LAYER_IDS),
    "ttt_length": 4,
}
MTP: dict[str, Any] = {**LAYER_SIZES, "num_hidden_layers": 4, "num_nextn_predict_layers": 1}
SPECULATORS: dict[str, Any] = {
    "speculators_model_type": "dspark",
    "architectures": ["DSparkDraftModel"],
    "transformer_layer_config": {**LAYER_SIZES, "num_hidden_layers": 2},
    "aux_hidden_state_layer_ids": [1, 3],
    "draft_vocab_size": VOCAB,
    "block_size": 5,
    "mask_token_id": VOCAB - 1,
    "markov_rank": RANK,
    "markov_head_type": "vanilla",
    "enable_confidence_head": True,
    "confidence_head_with_markov": True,
    "sample_from_anchor": True,
}

Shapes = dict[str, tuple[int, ...]]


def layer_shapes(at: str, attention_in: int, bias: bool = False) -> Shapes:
    """`bias`: the attention's projections have one."""
    shapes: Shapes = {
        f"{at}.input_layernorm.weight": (HIDDEN,),
        f"{at}.post_attention_layernorm.weight": (HIDDEN,),
        f"{at}.mlp.gate_proj.weight": (INNER, HIDDEN),
        f"{at}.mlp.up_proj.weight": (INNER, HIDDEN),
        f"{at}.mlp.down_proj.weight": (HIDDEN, INNER),
        f"{at}.self_attn.q_norm.weight": (HEAD_DIM,),
        f"{at}.self_attn.k_norm.weight": (HEAD_DIM,),
    }
    sizes = {"q": (HEADS * HEAD_DIM, attention_in), "o": (HIDDEN, HEADS * HEAD_DIM)}
    sizes |= dict.fromkeys(("k", "v"), (KV_HEADS * HEAD_DIM, attention_in))
    for part, size in sizes.items():
        shapes[f"{at}.self_attn.{part}_proj.weight"] = size
        if bias:
            shapes[f"{at}.self_attn.{part}_proj.bias"] = size[:1]
    return shapes


def block_shapes(
    head: str | None, *, draft_vocab: int = VOCAB, confidence: bool = True, bias: bool = False
) -> Shapes:
    """DSpark; `head` None is DFlash."""
    shapes: Shapes = {
        "fc.weight": (HIDDEN, len(LAYER_IDS) * HIDDEN),
        "hidden_norm.weight": (HIDDEN,),
        "norm.weight": (HIDDEN,),
        "embed_tokens.weight": (VOCAB, HIDDEN),
        "lm_head.weight": (draft_vocab, HIDDEN),
    }
    for index in range(2):
        shapes |= layer_shapes(f"layers.{index}", HIDDEN, bias)
    if head is not None:
        shapes |= {"markov_head.markov_w1.weight": (VOCAB, RANK)}
        shapes |= {"markov_head.markov_w2.weight": (draft_vocab, RANK)}
    if head == "gated":
        shapes |= {
            "markov_head.gate_proj.weight": (RANK, HIDDEN + RANK),
            "markov_head.gate_proj.bias": (RANK,),
        }
    if head == "rnn":
        shapes |= {"markov_head.joint_proj.weight": (3 * RANK, 2 * RANK + HIDDEN)}
        shapes |= {"markov_head.joint_proj.bias": (3 * RANK,)}
    if confidence:
        shapes |= {"confidence_head.proj.weight": (1, HIDDEN + (RANK if head else 0))}
        shapes |= {"confidence_head.proj.bias": (1,)}
    return shapes


def eagle3_shapes() -> Shapes:
    return {
        "embed_tokens.weight": (VOCAB, HIDDEN),
        "lm_head.weight": (VOCAB, HIDDEN),
        "fc.weight": (HIDDEN, len(LAYER_IDS) * HIDDEN),
        "norm.weight": (HIDDEN,),
        "layers.0.hidden_norm.weight": (HIDDEN,),
        **layer_shapes("layers.0", 2 * HIDDEN),
    }


def mtp_shapes() -> Shapes:
    return {
        "model.embed_tokens.weight": (VOCAB, HIDDEN),
        "mtp.fc.weight": (HIDDEN, 2 * HIDDEN),
        "mtp.pre_fc_norm_embedding.weight": (HIDDEN,),
        "mtp.pre_fc_norm_hidden.weight": (HIDDEN,),
        "mtp.norm.weight": (HIDDEN,),
        **layer_shapes("mtp.layers.0", HIDDEN),
    }


def random_tensors(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    """Norm weights around 1, all else around 0 and large enough to matter."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor] = {}
    for name, shape in sorted(shapes.items()):
        noise = torch.randn(shape, generator=generator)
        made[name] = 1.0 + 0.3 * noise if "norm" in name else 0.35 * noise
    return made


def reduced(
    config: dict[str, Any], tensors: dict[str, Tensor], ids: Tensor
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A chain cut to the tokens `ids`: its own head's rows, or else those of the target."""
    cut = tensors | {"d2t": ids - torch.arange(len(ids))}
    if "lm_head.weight" in cut:
        cut["lm_head.weight"] = cut["lm_head.weight"][ids].clone()
    return config | {"draft_vocab_size": len(ids)}, cut


def write_checkpoint(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors")
    return folder


def random_target(seed: int = 99, dtype: torch.dtype = torch.float32, device: str = "cpu") -> TargetParts:
    """Embedding and head of a target that has nothing else."""
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn((VOCAB, HIDDEN), generator=generator).to(device, dtype)
    head = (0.3 * torch.randn((VOCAB, HIDDEN), generator=generator)).to(device, dtype)
    return TargetParts(NUM_TARGET_LAYERS, embedding, head, PlainHead(head), MAX_POSITIONS)
