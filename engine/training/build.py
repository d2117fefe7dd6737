"""Makes the module to train, and writes it as a drafter's folder.

In: settings and the target. Out: a net that begins with layers of the target, with another drafter, or at
random; and on disk what `engine.drafters.loading` reads: parameters in bfloat16, without the target's embedding
and head.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.checkpoint import ModelConfig, read_weights
from engine.drafters import temperatures
from engine.drafters.fingerprint import KEY, fingerprint
from engine.drafters.loading import read_vocabulary
from engine.drafters.settings import DraftSettings, parse_settings, read_settings
from engine.drafters.tensors import DraftTensors
from engine.errors import StartError
from engine.model import Model
from engine.training.modules import BlockNet, ChainNet, Eagle3Net, MtpNet, layers_of
from engine.training.recipe import TrainSettings

Net = BlockNet | ChainNet
_NOISE = 0.02  # standard deviation of what begins at random
_MAY_DIFFER = ("norm_eps", "max_positions", "tied_embeddings", "eos_ids")  # in what a run starts from


def frequent_tokens(token_ids: np.ndarray, count: int, vocab_size: int) -> Tensor | None:
    """The `count` tokens that occur most often, in rising order; None where that is the whole vocabulary."""
    if not 0 < count < vocab_size:
        return None
    often = np.bincount(token_ids, minlength=vocab_size)
    chosen = np.argsort(-often, kind="stable")[:count]
    return torch.from_numpy(np.sort(chosen))


def draft_config(settings: TrainSettings, target: ModelConfig) -> ModelConfig:
    """The sizes of the drafter's own layers: the target's."""
    num_layers = settings.layers if settings.kind in ("dspark", "dflash") else 1
    return replace(target, num_layers=num_layers, has_head_norms=True)


def build_net(settings: TrainSettings, target: Model, vocabulary: Tensor | None) -> Net:
    """An untrained drafter of these tokens (target ids [V]; None: all) on the target's device."""
    config, embedding = draft_config(settings, target.config), target.embedding
    num_taps = len(settings.target_layer_ids)
    net: Net
    if settings.kind == "mtp":
        net = MtpNet(config, embedding)
    elif settings.kind == "eagle3":
        net = Eagle3Net(config, embedding, num_taps=num_taps, num_slots=settings.block_size)
    else:
        is_linked = settings.kind == "dspark"
        net = BlockNet(
            config,
            embedding,
            num_taps=num_taps,
            num_slots=settings.block_size,
            mask_token_id=settings.mask_token_id,
            markov_rank=settings.markov_rank if is_linked else 0,
            draft_vocab_size=target.config.vocab_size if vocabulary is None else len(vocabulary),
            has_confidence=is_linked,
        )
    noise = torch.Generator().manual_seed(settings.seed)
    for name, parameter in net.named_parameters():
        if name.endswith(".bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() > 1:
            nn.init.normal_(parameter, std=_NOISE, generator=noise)
    return net.to(target.device)


def load_net(folder: Path, settings: TrainSettings, target: Model) -> tuple[Net, Tensor | None]:
    """A drafter from its folder, and its tokens. StartError where it is not what these settings train."""
    size, whole = settings.draft_vocab_size, target.config.vocab_size
    config = _config(settings, target.config, size if 0 < size < whole else whole)
    theirs, wanted = read_settings(folder), parse_settings(folder / "config.json", config)
    _refuse_another(folder, theirs, wanted)
    tensors = DraftTensors(folder, read_weights(folder), torch.empty(0))
    vocabulary = read_vocabulary(tensors, theirs)
    net, prefix = build_net(settings, target, vocabulary), _prefix(settings)
    rest = {name: tensor for name, tensor in tensors.stored.items() if name not in tensors.used}
    try:
        net.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in rest.items()})
    except RuntimeError as error:
        raise StartError(f"cannot start from {folder}: {' '.join(str(error).split())}") from None
    return net, vocabulary


def _refuse_another(folder: Path, theirs: DraftSettings, wanted: DraftSettings) -> None:
    has, needs = (asdict(one) | asdict(one.layers) for one in (theirs, wanted))
    names = [name for name in needs if name not in ("layers", *_MAY_DIFFER) and has[name] != needs[name]]
    if names:
        differing = "; ".join(f"{name} is {has[name]}, this run's {needs[name]}" for name in names)
        raise StartError(f"cannot start from {folder}: {differing}")


def begin_with_target(net: Net, config: ModelConfig, weights: dict[str, Tensor]) -> None:
    """Copy the target's last layers, where sizes agree; Markov codes begin as what sets embeddings apart."""
    layers = layers_of(net)
    first = config.num_layers - len(layers)
    with torch.no_grad():
        for index, layer in enumerate(layers):
            for name, parameter in layer.named_parameters():
                stored = weights.get(f"model.layers.{first + index}.{name}")
                if stored is not None and stored.shape == parameter.shape:
                    parameter.copy_(stored)
        if isinstance(net, BlockNet) and net.markov_head is not None:
            net.markov_head.markov_w1.weight.copy_(_leading_directions(net.embedding, net.markov_head.rank))
            nn.init.zeros_(net.markov_head.markov_w2.weight)


def _leading_directions(embedding: Tensor, rank: int) -> Tensor:
    """Every token's place along the `rank` directions in which embeddings differ most, 1 on average: [V, rank]."""
    centred = embedding.float() - embedding.float().mean(dim=0)
    _, directions = torch.linalg.eigh(centred.T @ centred)  # rising
    places = centred @ directions[:, -rank:]
    return places / places.square().mean().sqrt()


def write_drafter(
    folder: Path, net: Net, settings: TrainSettings, target: ModelConfig, vocabulary: Tensor | None
) -> None:
    """Write or replace a drafter's folder; each file is whole at any time. A calibration of others goes."""
    folder.mkdir(parents=True, exist_ok=True)
    prefix = _prefix(settings)
    tensors = {
        prefix + name: part.detach().to("cpu", torch.bfloat16).contiguous()
        for name, part in net.state_dict().items()
    }
    if vocabulary is not None:
        tensors["d2t"] = (vocabulary - torch.arange(len(vocabulary))).to(torch.int32)
    config = _config(settings, target, target.vocab_size if vocabulary is None else len(vocabulary))
    config[KEY] = fingerprint(net.embedding)
    for name, write in (
        ("config.json", lambda path: path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")),
        ("model.safetensors", lambda path: save_file(tensors, path)),
    ):
        scratch = folder / f".{name}.part"
        write(scratch)
        scratch.replace(folder / name)
    (folder / temperatures.FILE_NAME).unlink(missing_ok=True)


def _prefix(settings: TrainSettings) -> str:
    """Of the names of tensors in the file."""
    return "mtp." if settings.kind == "mtp" else ""


def _config(settings: TrainSettings, target: ModelConfig, vocab_size: int) -> dict[str, Any]:
    own = draft_config(settings, target)
    layers: dict[str, Any] = {
        "model_type": "qwen3",
        "vocab_size": own.vocab_size,
        "hidden_size": own.hidden_size,
        "intermediate_size": own.intermediate_size,
        "num_hidden_layers": own.num_layers,
        "num_attention_heads": own.num_heads,
        "num_key_value_heads": own.num_kv_heads,
        "head_dim": own.head_dim,
        "rms_norm_eps": own.norm_eps,
        "max_position_embeddings": own.max_positions,
        "attention_bias": False,
        "tie_word_embeddings": False,
        "rope_parameters": _rope(own),
        "dtype": "bfloat16",
    }
    if settings.kind == "mtp":
        return {**layers, "num_nextn_predict_layers": 1, "draft_vocab_size": vocab_size}
    if settings.kind == "eagle3":
        return {
            **layers,
            "draft_vocab_size": vocab_size,
            "architectures": ["Qwen3Eagle3Model"],
            "ttt_length": settings.block_size,
            "num_target_layers": target.num_layers,
            "target_layer_ids": list(settings.target_layer_ids),
        }
    is_linked = settings.kind == "dspark"
    return {
        "architectures": ["DSparkDraftModel" if is_linked else "DFlashDraftModel"],
        "speculators_model_type": settings.kind,
        "transformer_layer_config": layers,
        "aux_hidden_state_layer_ids": [one + 1 for one in settings.target_layer_ids],
        "draft_vocab_size": vocab_size,
        "block_size": settings.block_size,
        "mask_token_id": settings.mask_token_id,
        "sample_from_anchor": True,
        "markov_rank": settings.markov_rank if is_linked else 0,
        **({"markov_head_type": "vanilla"} if is_linked and settings.markov_rank else {}),
        "enable_confidence_head": is_linked,
        "confidence_head_with_markov": is_linked and settings.markov_rank > 0,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }


def _rope(config: ModelConfig) -> dict[str, Any]:
    rope = config.rope
    parameters: dict[str, Any] = {"rope_type": rope.kind, "rope_theta": rope.theta}
    if rope.kind != "default":
        parameters["factor"] = rope.factor
    if rope.kind == "llama3":
        parameters["low_freq_factor"] = rope.low_freq_factor
        parameters["high_freq_factor"] = rope.high_freq_factor
        parameters["original_max_position_embeddings"] = rope.original_max_positions
    return parameters
