"""`sparkgate drafter`: the engine's own commands, with what sparkgate.yaml says where nothing is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.cli.conftest import Process

ANSWERS = ("--code-prompts", "1", "--out", "answers.npz")


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("data", "--temperatures"),
        ("train", "--recipe"),
        ("eval", "--plot"),
        ("calibrate", "--temperatures"),
        ("compare", "--learning-rates"),
    ],
)
def test_help_is_that_of_the_engines_command(process: Process, command: str, option: str) -> None:
    done = process("drafter", command, "--help")
    assert done.returncode == 0
    assert option in done.stdout
    assert f"engine.training {command}" in done.stdout


def test_the_model_is_that_of_the_deployment(process: Process, folder: Path) -> None:
    (folder / "elsewhere.yaml").write_text("engine: {model: no-such-model}\n")
    done = process("drafter", "data", "--config", "elsewhere.yaml", *ANSWERS)
    assert done.returncode == 2
    assert "'no-such-model'" in done.stderr


def test_a_model_that_is_given_counts_instead(process: Process, folder: Path) -> None:
    (folder / "sparkgate.yaml").write_text("engine: {model: no-such-model}\n")
    done = process("drafter", "data", "--model", "nor-this-one", *ANSWERS)
    assert done.returncode == 2
    assert "'nor-this-one'" in done.stderr


def test_a_model_in_a_recipe_counts_instead(process: Process, folder: Path) -> None:
    (folder / "sparkgate.yaml").write_text("engine: {model: no-such-model}\n")
    (folder / "recipe.yaml").write_text("model: nor-this-one\nanswers: [missing.npz]\nout: run\n")
    done = process("drafter", "train", "--recipe", "recipe.yaml")
    assert done.returncode == 2
    assert "no-such-model" not in done.stderr


def test_a_mistake_is_one_line(process: Process, folder: Path) -> None:
    (folder / "prompts.jsonl").write_text('{"prompt": "hello", "domain": "sport"}\n')
    done = process("drafter", "data", "--prompts", "prompts.jsonl", "--out", "answers.npz")
    assert done.returncode == 2
    assert done.stderr.strip() == "drafter: prompts.jsonl:1: domain is 'sport', none of math, code, chat"
