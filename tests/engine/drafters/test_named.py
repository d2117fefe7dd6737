"""Drafters by name: what each name stands for, what is shared and told, and what cannot be used."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.checkpoint import read_config, read_weights
from engine.drafters.chain import ChainDrafter
from engine.drafters.dspark import BlockDrafter
from engine.drafters.fingerprint import KEY, fingerprint
from engine.drafters.hybrid import Hybrid
from engine.drafters.lookup import PromptLookup
from engine.drafters.named import BUNDLED, load_named
from engine.errors import StartError
from engine.model import Llama
from tests.engine.drafters.checkpoints import (
    DEEPSPEC,
    EPS,
    NUM_TARGET_LAYERS,
    TARGET_SIZES,
    block_shapes,
    mtp_shapes,
    random_tensors,
    write_checkpoint,
)
from tests.engine.toy import write_toy_model


@pytest.fixture(scope="module")
def target_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small"
    write_toy_model(
        folder,
        **TARGET_SIZES,
        rms_norm_eps=EPS,
        tie_word_embeddings=False,
        eos_token_id=None,
        pad_token_id=None,
    )
    return folder


@pytest.fixture(scope="module")
def target(target_folder: Path) -> Llama:
    return load(target_folder)


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Llama:
    return Llama(read_config(folder), read_weights(folder), dtype, torch.device("cpu"))


@pytest.mark.parametrize("name", ["auto", "lookup"])
def test_names_without_files_are_prompt_lookup(name: str, target: Llama, tmp_path: Path) -> None:
    named = load_named(name, target, tmp_path)
    assert named is not None
    assert (named.name, type(named.drafter)) == ("lookup", PromptLookup)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def bundled(target: Llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small drafter, bundled for `target`."""
    config = DEEPSPEC | {KEY: fingerprint(target.embedding)}
    folder = write_checkpoint(tmp_path / "small", config, random_tensors(block_shapes("vanilla"), 1))
    monkeypatch.setattr("engine.drafters.named.BUNDLED", folder)
    return folder


@pytest.mark.usefixtures("bundled")
@pytest.mark.parametrize("name", ["auto", "bundled"])
def test_the_bundled_drafter_runs_beside_lookup_where_it_fits(
    name: str, target_folder: Path, tmp_path: Path
) -> None:
    named = load_named(name, load(target_folder, torch.bfloat16), tmp_path, draft_topk=3)
    assert named is not None
    assert named.name == "bundled"
    assert isinstance(named.drafter, Hybrid)
    assert isinstance(named.drafter.learned, BlockDrafter)
    assert named.drafter.lookup.num_slots == named.drafter.learned.num_slots == 5
    assert named.drafter.learned.draft_topk == 3


def test_another_model_gets_lookup_or_a_refusal(
    bundled: Path, target: Llama, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = json.loads((bundled / "config.json").read_text())
    (bundled / "config.json").write_text(json.dumps(config | {KEY: fingerprint(1.01 * target.embedding)}))
    told = "the bundled drafter was trained for small, not for the model that is served"
    with caplog.at_level(logging.INFO, "engine"):
        named = load_named("auto", target, tmp_path)
    assert named is not None
    assert isinstance(named.drafter, PromptLookup)
    assert caplog.messages == [f"drafting by prompt lookup alone: {told}"]
    with pytest.raises(StartError, match=f"--drafter bundled: {told}"):
        load_named("bundled", target, tmp_path)


def test_missing_weights_are_named(bundled: Path, target: Llama, tmp_path: Path) -> None:
    (bundled / "model.safetensors").unlink()
    with pytest.raises(StartError, match=f"weights are missing, {bundled / 'model.safetensors'}"):
        load_named("bundled", target, tmp_path)


def test_what_is_shipped_was_trained_for_the_bundled_model(model_folder: Path) -> None:
    config = json.loads((BUNDLED / "config.json").read_text())
    embedding = read_weights(model_folder)["model.embed_tokens.weight"]
    assert config[KEY] == fingerprint(embedding) == fingerprint(embedding.bfloat16())


def test_what_is_shipped_loads_beside_the_bundled_model(model_folder: Path, tmp_path: Path) -> None:
    if not (BUNDLED / "model.safetensors").is_file():
        pytest.skip(f"{BUNDLED} holds no weights")
    named = load_named("bundled", load(model_folder, torch.bfloat16), tmp_path)
    assert named is not None
    assert isinstance(named.drafter, Hybrid)
    assert isinstance(named.drafter.learned, BlockDrafter)
    assert named.drafter.learned.confidence_temperatures is not None


def test_none_is_no_drafter(target: Llama, tmp_path: Path) -> None:
    assert load_named("none", target, tmp_path) is None


def test_a_folder_is_loaded_and_what_it_shares_is_told(
    target: Llama, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = random_tensors(block_shapes("vanilla"), 1) | {
        f"extra.{index}": torch.zeros(1) for index in range(5)
    }
    tensors |= {"embed_tokens.weight": target.embedding.clone()}
    folder = write_checkpoint(tmp_path / "drafter", DEEPSPEC, tensors)
    with caplog.at_level(logging.INFO, "engine"):
        named = load_named(str(folder), target, tmp_path, draft_topk=3)
    assert named is not None
    assert named.name == "drafter"
    assert isinstance(named.drafter, BlockDrafter)
    assert named.drafter.draft_topk == 3
    assert named.drafter.embedding is target.embedding
    assert caplog.messages == [
        "drafter drafter: 5 slots, shares embedding with the model, "
        "5 tensors of its file are not used: extra.0, extra.1, extra.2, ..."
    ]


def test_the_targets_own_folder_may_hold_the_drafter(
    target_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "with-mtp"
    config = json.loads((target_folder / "config.json").read_text()) | {"num_nextn_predict_layers": 1}
    mtp = {
        name: tensor for name, tensor in random_tensors(mtp_shapes(), 3).items() if name.startswith("mtp.")
    }
    write_checkpoint(folder, config, load_file(target_folder / "model.safetensors") | mtp)
    model = load(folder)
    with caplog.at_level(logging.INFO, "engine"):
        named = load_named(str(folder), model, tmp_path)
    assert named is not None
    assert isinstance(named.drafter, ChainDrafter)
    assert named.drafter.reads_last_hidden
    assert named.drafter.embedding is model.embedding
    assert named.drafter.head is model.head
    assert caplog.messages == ["drafter with-mtp: 1 slots, shares embedding and head with the model"]


def test_a_drafter_runs_in_the_targets_format(target_folder: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "drafter", DEEPSPEC, random_tensors(block_shapes("vanilla"), 1))
    named = load_named(str(folder), load(target_folder, torch.bfloat16), tmp_path)
    assert named is not None
    assert isinstance(named.drafter, BlockDrafter)
    assert named.drafter.embedding.dtype == named.drafter.final_norm.weight.dtype == torch.bfloat16


def test_a_folder_that_is_no_drafter_or_another_models_is_refused(
    target: Llama, target_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(StartError, match="does not say which drafter this is"):
        load_named(str(target_folder), target, tmp_path)
    config = DEEPSPEC | {"num_target_layers": NUM_TARGET_LAYERS + 1}
    folder = write_checkpoint(tmp_path / "other", config, random_tensors(block_shapes("vanilla"), 1))
    with pytest.raises(StartError, match="num_target_layers is 5, the target's is 4: not a drafter for it"):
        load_named(str(folder), target, tmp_path)


def test_a_name_that_is_nothing_says_what_would_be(target: Llama, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="drafter 'lokup' is not auto, bundled, lookup, none"):
        load_named("lokup", target, tmp_path)
