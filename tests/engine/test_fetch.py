from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open

from engine.checkpoint import read_config
from engine.errors import StartError
from engine.fetch import BUNDLED_MODEL, fetch_model


def test_the_bundled_model_is_converted_whole(model_folder: Path) -> None:
    config = read_config(model_folder)
    assert (config.num_layers, config.hidden_size, config.vocab_size) == (30, 576, 49_152)
    assert config.eos_ids == {2}
    with safe_open(model_folder / "model.safetensors", "pt") as weights:
        assert len(weights.keys()) == 2 + 9 * config.num_layers


def test_a_model_on_disk_is_not_fetched_again(model_folder: Path, test_dir: Path) -> None:
    reports: list[str] = []
    fetched = fetch_model(BUNDLED_MODEL, test_dir, lambda what, share: reports.append(what))
    assert (fetched.name, fetched.folder) == (BUNDLED_MODEL, model_folder)
    assert reports == []


def test_nothing_half_made_is_left_beside_it(model_folder: Path) -> None:
    assert [path.name for path in model_folder.parent.glob(".*") if path.name != ".lock"] == []


def test_a_local_folder_is_served_under_its_name(toy_folder: Path, tmp_path: Path) -> None:
    fetched = fetch_model(str(toy_folder), tmp_path)
    assert (fetched.name, fetched.folder) == ("toy", toy_folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", ["", "no-such-model", "a/b/c", "../x y"])
def test_a_name_that_is_nothing_says_what_would_be(model: str, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=BUNDLED_MODEL):
        fetch_model(model or "?", tmp_path)


def test_a_file_is_not_a_model_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(StartError, match="give the folder"):
        fetch_model(str(file), tmp_path)


def test_a_data_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(StartError, match="cannot write"):
        fetch_model(BUNDLED_MODEL, blocked)
