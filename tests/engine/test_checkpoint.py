from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine.checkpoint import read_config, read_weights
from engine.errors import StartError

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 10,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


def write_config(folder: Path, **changes: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({**LLAMA, **changes}))
    return folder


def test_defaults_are_those_of_old_llama_files(tmp_path: Path) -> None:
    config = read_config(write_config(tmp_path, rope_theta=5e5, eos_token_id=2))
    assert (config.num_kv_heads, config.head_dim, config.rope.theta) == (2, 4, 5e5)
    assert config.eos_ids == {2}


def test_end_tokens_of_both_files_count(tmp_path: Path) -> None:
    write_config(tmp_path, eos_token_id=[2, 3])
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert read_config(tmp_path).eos_ids == {2, 3, 7}


def test_rope_parameters_of_new_and_old_files_mean_the_same(tmp_path: Path) -> None:
    scaling = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    new = read_config(
        write_config(tmp_path, rope_parameters={"rope_type": "llama3", "rope_theta": 9e4, **scaling})
    )
    old = read_config(write_config(tmp_path, rope_theta=9e4, rope_scaling={"rope_type": "llama3", **scaling}))
    assert new == old


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "mamba"}, "'mamba'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, "yarn"),
        ({"model_type": None}, "None"),
        ({"model_type": "qwen3", "use_sliding_window": True}, "use_sliding_window"),
        ({"model_type": "qwen3", "layer_types": ["full_attention", "linear"]}, "'linear'"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(StartError, match=reason):
        read_config(write_config(tmp_path, **changes))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "num_attention_heads": 1}')
    with pytest.raises(StartError, match="lacks the key 'max_position_embeddings'"):
        read_config(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(StartError, match=r"config\.json"):
        read_config(tmp_path)


def test_a_folder_without_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"no config\.json"):
        read_config(tmp_path)


def test_weights_in_several_files_are_joined(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model-1.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "model-2.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert {name: len(tensor) for name, tensor in read_weights(tmp_path).items()} == {"a": 2, "b": 3}


def test_missing_or_broken_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"no model\.safetensors"):
        read_weights(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(StartError, match="cannot be read"):
        read_weights(tmp_path)
