"""What a drafter's folder must say, what is refused, and what is shared with the target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.drafters.chain import ChainDrafter
from engine.drafters.dspark import BlockDrafter
from engine.drafters.loading import load_drafter
from engine.drafters.markov import GatedHead, RecurrentHead, VanillaHead
from engine.errors import StartError
from tests.engine.drafters.checkpoints import (
    DEEPSPEC,
    EAGLE3,
    HIDDEN,
    MAX_POSITIONS,
    MTP,
    NUM_TARGET_LAYERS,
    SPECULATORS,
    VOCAB,
    block_shapes,
    eagle3_shapes,
    mtp_shapes,
    random_target,
    random_tensors,
    reduced,
    write_checkpoint,
)

REFUSALS = [
    (DEEPSPEC | {"architectures": ["DSparkDraftModel"]}, "architectures"),
    (DEEPSPEC | {"architectures": []}, "architectures"),
    (DEEPSPEC | {"dflash_config": {"mask_token_id": 3}}, "dflash_config"),
    (DEEPSPEC | {"markov_head_type": "linear"}, "markov_head_type"),
    (DEEPSPEC | {"markov_head_type": "gated"}, "tensors of a vanilla head"),
    (DEEPSPEC | {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    (DEEPSPEC | {"rope_parameters": {"partial_rotary_factor": 0.25}}, "partial_rotary_factor"),
    (DEEPSPEC | {"mask_token_id": VOCAB}, "mask_token_id"),
    (DEEPSPEC | {"target_layer_ids": [2, 0]}, "target_layer_ids"),
    (DEEPSPEC | {"target_layer_ids": [0, NUM_TARGET_LAYERS - 1]}, "last cannot be read"),
    (DEEPSPEC | {"target_layer_ids": [-1, 0]}, "first layer"),
    (DEEPSPEC | {"num_target_layers": 9}, "num_target_layers"),
    (DEEPSPEC | {"hidden_size": HIDDEN + 8}, "hidden_size"),
    (DEEPSPEC | {"vocab_size": VOCAB + 8}, "vocab_size"),
    (DEEPSPEC | {"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
    (DEEPSPEC | {"markov_rank": 0}, "markov_rank"),
    (DEEPSPEC | {"block_size": 0}, "block_size"),
    (EAGLE3 | {"num_hidden_layers": 2}, "num_hidden_layers"),
    (EAGLE3 | {"ttt_length": 0}, "ttt_length"),
    (EAGLE3 | {"draft_vocab_size": VOCAB + 1}, "draft_vocab_size"),
    (MTP | {"draft_vocab_size": 0}, "draft_vocab_size"),
    (MTP | {"num_nextn_predict_layers": 2}, "only one is supported"),
    (SPECULATORS | {"speculators_model_type": "eagle"}, "speculators_model_type"),
    (SPECULATORS | {"markov_head_type": "rnn", "sample_from_anchor": False}, "sample_from_anchor"),
    (SPECULATORS | {"projector_type": "domino"}, "projector_type"),
    (SPECULATORS | {"aux_hidden_state_layer_ids": [0, 3]}, "first layer"),
]


@pytest.mark.parametrize(("config", "key"), REFUSALS)
def test_a_file_that_does_not_fit_or_could_be_misread_is_refused(
    tmp_path: Path, config: dict[str, Any], key: str
) -> None:
    write_checkpoint(tmp_path, config, random_tensors(block_shapes("vanilla"), 1))
    with pytest.raises(StartError, match=key) as error:
        load_drafter(tmp_path, random_target())
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (DEEPSPEC, "block_size"),
        (DEEPSPEC, "markov_rank"),
        (DEEPSPEC, "target_layer_ids"),
        (DEEPSPEC, "enable_confidence_head"),
        (DEEPSPEC, "mask_token_id"),
        (EAGLE3, "ttt_length"),
        (SPECULATORS, "sample_from_anchor"),
        (SPECULATORS, "aux_hidden_state_layer_ids"),
        (SPECULATORS, "draft_vocab_size"),
        (SPECULATORS, "transformer_layer_config"),
    ],
)
def test_a_missing_key_is_named(tmp_path: Path, config: dict[str, Any], key: str) -> None:
    short = {name: value for name, value in config.items() if name != key}
    write_checkpoint(tmp_path, short, random_tensors(block_shapes("vanilla"), 1))
    with pytest.raises(StartError, match=key):
        load_drafter(tmp_path, random_target())


@pytest.mark.parametrize(
    "name", ["fc.weight", "layers.1.self_attn.k_norm.weight", "confidence_head.proj.weight"]
)
def test_a_missing_or_misshapen_tensor_is_named(tmp_path: Path, name: str) -> None:
    tensors = random_tensors(block_shapes("vanilla"), 1)
    changed = tensors | {name: torch.zeros(3, 3)}
    with pytest.raises(StartError, match=rf"{name} has the shape \[3, 3\]"):
        load_drafter(write_checkpoint(tmp_path / "a", DEEPSPEC, changed), random_target())
    del tensors[name]
    with pytest.raises(StartError, match=f"lacks the tensor {name}"):
        load_drafter(write_checkpoint(tmp_path / "b", DEEPSPEC, tensors), random_target())


def test_a_folder_without_a_config_is_no_drafter(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"config\.json"):
        load_drafter(tmp_path, random_target())


def test_equal_embeddings_and_heads_share_the_targets_storage(tmp_path: Path) -> None:
    target, tensors = random_target(), random_tensors(block_shapes("vanilla"), 1)
    tensors |= {"embed_tokens.weight": target.embedding.clone(), "lm_head.weight": target.head_weight.clone()}
    loaded = load_drafter(write_checkpoint(tmp_path / "equal", DEEPSPEC, tensors), target)
    assert isinstance(loaded.drafter, BlockDrafter)
    assert loaded.drafter.embedding.data_ptr() == target.embedding.data_ptr()
    assert loaded.drafter.head is target.head
    assert (loaded.shares_embedding, loaded.shares_head) == (True, True)
    tensors["lm_head.weight"][0, 0] += 1
    other = load_drafter(write_checkpoint(tmp_path / "other", DEEPSPEC, tensors), target)
    assert (other.shares_embedding, other.shares_head) == (True, False)


def test_tensors_nobody_reads_are_reported(tmp_path: Path) -> None:
    tensors = random_tensors(eagle3_shapes(), 1) | {"layers.0.extra.weight": torch.zeros(2)}
    loaded = load_drafter(write_checkpoint(tmp_path, EAGLE3, tensors), random_target())
    assert loaded.unused == ("layers.0.extra.weight",)


def test_heads_that_the_config_leaves_out_are_reported(tmp_path: Path) -> None:
    tensors = random_tensors(block_shapes("vanilla"), 1)
    config = DEEPSPEC | {"enable_confidence_head": False}
    loaded = load_drafter(write_checkpoint(tmp_path, config, tensors), random_target())
    assert loaded.unused == ("confidence_head.proj.bias", "confidence_head.proj.weight")


def test_a_map_onto_tokens_that_do_not_exist_is_refused(tmp_path: Path) -> None:
    config = SPECULATORS | {"draft_vocab_size": 8}
    tensors = random_tensors(block_shapes("vanilla", draft_vocab=8), 1)
    for offsets in ([VOCAB] * 8, [1, 0, 0, 0, 0, 0, 0, 0]):
        tensors["d2t"] = torch.tensor(offsets)
        with pytest.raises(StartError, match="d2t"):
            load_drafter(write_checkpoint(tmp_path, config, tensors), random_target())


def test_a_map_that_moves_tokens_of_a_whole_vocabulary_is_refused(tmp_path: Path) -> None:
    tensors = random_tensors(block_shapes("vanilla"), 1) | {"d2t": torch.zeros(VOCAB, dtype=torch.long)}
    assert load_drafter(write_checkpoint(tmp_path, SPECULATORS, tensors), random_target()).unused == ()
    tensors["d2t"][3] = 1
    with pytest.raises(StartError, match="d2t"):
        load_drafter(write_checkpoint(tmp_path, SPECULATORS, tensors), random_target())


def test_the_two_maps_must_name_the_same_tokens(tmp_path: Path) -> None:
    config = SPECULATORS | {"draft_vocab_size": 8}
    tensors = random_tensors(block_shapes("vanilla", draft_vocab=8), 1)
    tensors |= {"d2t": torch.tensor([3] * 4 + [20] * 4), "t2d": torch.zeros(VOCAB, dtype=torch.bool)}
    tensors["t2d"][[3, 4, 5, 6, 24, 25, 26, 27]] = True
    assert load_drafter(write_checkpoint(tmp_path, config, tensors), random_target()).unused == ()
    tensors["t2d"][[27, 28]] = torch.tensor([False, True])
    with pytest.raises(StartError, match="d2t and t2d"):
        load_drafter(write_checkpoint(tmp_path, config, tensors), random_target())
    whole = random_tensors(block_shapes("vanilla"), 1) | {"t2d": tensors["t2d"]}
    with pytest.raises(StartError, match="t2d leaves out"):
        load_drafter(write_checkpoint(tmp_path, SPECULATORS, whole), random_target())


@pytest.mark.parametrize(
    ("tensors_of", "head"), [("vanilla", VanillaHead), ("gated", GatedHead), ("rnn", RecurrentHead)]
)
def test_a_head_the_config_does_not_name_is_known_by_its_tensors(
    tmp_path: Path, tensors_of: str, head: type
) -> None:
    config = {name: value for name, value in DEEPSPEC.items() if name != "markov_head_type"}
    tensors = random_tensors(block_shapes(tensors_of), 1)
    drafter = load_drafter(write_checkpoint(tmp_path, config, tensors), random_target()).drafter
    assert isinstance(drafter, BlockDrafter)
    assert isinstance(drafter.markov, head)


@pytest.mark.parametrize("says", [{}, {"markov_head_type": "rnn"}])
def test_tensors_of_two_heads_are_refused(tmp_path: Path, says: dict[str, str]) -> None:
    config = {name: value for name, value in DEEPSPEC.items() if name != "markov_head_type"} | says
    tensors = random_tensors(block_shapes("gated") | block_shapes("rnn"), 1)
    with pytest.raises(StartError, match="both a gated and an rnn head"):
        load_drafter(write_checkpoint(tmp_path, config, tensors), random_target())


def test_a_recurrent_head_known_by_its_tensors_needs_the_anchors_slot(tmp_path: Path) -> None:
    config = SPECULATORS | {"sample_from_anchor": False, "markov_head_type": None}
    tensors = random_tensors(block_shapes("rnn"), 1)
    with pytest.raises(StartError, match="sample_from_anchor"):
        load_drafter(write_checkpoint(tmp_path, config, tensors), random_target())


def test_positions_reach_as_far_as_the_targets(tmp_path: Path) -> None:
    tensors = random_tensors(block_shapes("vanilla"), 1)
    config = DEEPSPEC | {"max_position_embeddings": 64}
    drafter = load_drafter(write_checkpoint(tmp_path, config, tensors), random_target()).drafter
    assert isinstance(drafter, BlockDrafter)
    angle = torch.tensor(float(MAX_POSITIONS + 3))  # of the fastest pair, in a block at the end
    rotation = drafter.rotary.at(torch.tensor([MAX_POSITIONS + 3]))
    assert float(rotation.cosine[0, 0, 0]) == pytest.approx(float(angle.cos()), abs=1e-4)


@pytest.mark.parametrize("place", ["rope_parameters", "top level"])
def test_the_rotation_base_is_read_from_either_place(tmp_path: Path, place: str) -> None:
    config = {key: value for key, value in DEEPSPEC.items() if key != "rope_parameters"}
    if place == "top level":
        config["rope_theta"] = 500.0
    else:
        config["rope_parameters"] = {"rope_theta": 500.0, "rope_type": "default"}
    drafter = load_drafter(
        write_checkpoint(tmp_path, config, random_tensors(block_shapes("vanilla"), 1)), random_target()
    ).drafter
    assert isinstance(drafter, BlockDrafter)
    slowest = 500.0 ** -(6 / 8)  # of head size 8
    assert drafter.rotary.cosine[10, 0, 3] == pytest.approx(torch.tensor(10 * slowest).cos().item(), rel=1e-5)


@pytest.mark.parametrize(("config", "shapes"), [(EAGLE3, eagle3_shapes()), (MTP, mtp_shapes())])
def test_a_chain_may_have_a_reduced_vocabulary_or_say_that_it_has_not(
    tmp_path: Path, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]
) -> None:
    ids, tensors = torch.tensor([1, 4, 9, 39]), random_tensors(shapes, 3)
    folder = write_checkpoint(tmp_path / "whole", config | {"draft_vocab_size": VOCAB}, tensors)
    whole = load_drafter(folder, random_target()).drafter
    loaded = load_drafter(write_checkpoint(tmp_path / "cut", *reduced(config, tensors, ids)), random_target())
    assert loaded.unused == ()
    assert isinstance(whole, ChainDrafter)
    assert isinstance(loaded.drafter, ChainDrafter)
    assert whole.vocabulary is None
    assert loaded.drafter.vocabulary is not None
    assert torch.equal(loaded.drafter.vocabulary, ids)
    hidden = torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(4))
    assert torch.equal(loaded.drafter.logits(hidden), whole.logits(hidden)[:, ids])


def test_a_reduced_vocabulary_without_a_head_takes_the_targets_rows(tmp_path: Path) -> None:
    ids = torch.tensor([1, 4, 9, 39])
    tensors = random_tensors(block_shapes("vanilla", draft_vocab=len(ids)), seed=3)
    tensors |= {"d2t": ids - torch.arange(len(ids))}
    del tensors["lm_head.weight"]
    target = random_target()
    folder = write_checkpoint(tmp_path / "headless", SPECULATORS | {"draft_vocab_size": len(ids)}, tensors)
    loaded = load_drafter(folder, target)
    assert isinstance(loaded.drafter, BlockDrafter)
    assert loaded.shares_head
    hidden = torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(4))
    assert torch.equal(loaded.drafter.head(hidden), target.head(hidden)[:, ids])
