"""Settings from options and from a YAML file."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from engine.drafters.named import BUNDLED
from engine.drafters.settings import read_settings
from engine.errors import StartError
from engine.training.__main__ import main
from engine.training.recipe import TrainSettings, add_arguments, settings_of


def parsed(*options: str) -> TrainSettings:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return settings_of(parser.parse_args(options))


def test_options_go_before_the_recipe_and_that_before_defaults(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model: target\nanswers: [a.npz, b.npz]\nlayers: 3\nblock_size: 5\ntarget_layer_ids: [0, 4]\n"
    )
    settings = parsed(
        "--recipe",
        str(recipe),
        "--layers",
        "1",
        "--out",
        "run",
        "--for",
        "5m",
        "--no-from-target",
        "--start-from",
        "before",
    )
    assert settings == TrainSettings(
        model=Path("target"),
        answers=(Path("a.npz"), Path("b.npz")),
        out=Path("run"),
        layers=1,
        block_size=5,
        target_layer_ids=(0, 4),
        for_s=300.0,
        from_target=False,
        start_from=Path("before"),
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model: a\nanswers: [b]\nout: c\nlayer: 2", "layer is no setting"),
        ("model: a\nanswers: [b]\nout: c\nkind: medusa", "medusa"),
        ("model: a\nanswers: [b]\nout: c\nlayers: 0", "layers is 0"),
        ("model: a\nanswers: []\nout: c", "no file of answers"),
        ("model: a\nout: c", "answers"),
        ("- model", "settings by name"),
        ("model: [", "cannot be read"),
    ],
)
def test_a_mistake_in_a_recipe_is_told(tmp_path: Path, text: str, told: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    with pytest.raises(StartError, match=told):
        parsed("--recipe", str(recipe))


def test_the_bundled_drafter_is_what_its_recipe_says() -> None:
    recipe, made = parsed("--recipe", str(BUNDLED / "recipe.yaml")), read_settings(BUNDLED)
    assert str(recipe.model) == BUNDLED.name
    assert (recipe.kind, recipe.layers, recipe.block_size) == (
        made.kind,
        made.layers.num_layers,
        made.num_slots,
    )
    assert (recipe.target_layer_ids, recipe.mask_token_id) == (made.target_layer_ids, made.mask_token_id)
    assert (recipe.markov_rank, recipe.draft_vocab_size) == (made.markov_rank, made.draft_vocab_size)


def test_the_model_that_a_recipe_names_is_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: no-such-model\nanswers: [a.npz]\nout: run")
    assert main(["train", "--recipe", str(recipe), "--data-dir", str(tmp_path)]) == 2
    assert "model 'no-such-model' is not smollm2-135m-instruct" in capsys.readouterr().err
