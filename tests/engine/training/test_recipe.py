"""Settings from options and from a YAML file."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from engine.errors import StartError
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
        "--recipe", str(recipe), "--layers", "1", "--out", "run", "--for", "5m", "--no-from-target"
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
