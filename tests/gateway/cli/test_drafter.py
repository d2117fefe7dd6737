"""`sparkgate drafter`: the engine's own commands, with what sparkgate.yaml says where nothing is given."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from engine.training.__main__ import parser
from tests.command_lines import root
from tests.gateway.cli.conftest import Cli, Process

ANSWERS = ("--code-prompts", "1", "--out", "answers.npz")


def test_its_commands_are_those_of_the_engine() -> None:
    (commands,) = (it for it in parser()._actions if isinstance(it, argparse._SubParsersAction))
    assert sorted(root().commands["drafter"].commands) == sorted(commands.choices)


def test_help_is_that_of_the_engines_command(process: Process) -> None:
    done = process("drafter", "train", "--help")
    assert done.returncode == 0
    assert "--recipe" in done.stdout
    assert "usage: sparkgate drafter train" in done.stdout


@pytest.fixture
def handed_on(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What this process would have become, instead of becoming it."""
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, argv: became.append(argv))
    return became


def test_the_model_is_that_of_the_deployment_unless_one_is_given(
    cli: Cli, folder: Path, handed_on: list[list[str]]
) -> None:
    (folder / "elsewhere.yaml").write_text("engine: {model: some-model}\n")
    defaults = ["data", "--data-dir", ".sparkgate", "--model", "some-model"]
    cli("drafter", "data", "--config", "elsewhere.yaml", *ANSWERS)
    assert handed_on.pop()[4:] == [*defaults, *ANSWERS]
    cli("drafter", "data", "--config", "elsewhere.yaml", "--model", "another", *ANSWERS)
    assert handed_on[-1][4:] == [*defaults, "--model", "another", *ANSWERS]
    assert parser().parse_args(handed_on[-1][4:]).model == "another"


def test_a_model_in_a_recipe_counts_instead(cli: Cli, folder: Path, handed_on: list[list[str]]) -> None:
    (folder / "sparkgate.yaml").write_text("engine: {model: some-model}\n")
    cli("drafter", "train", "--recipe", "recipe.yaml")
    cli("drafter", "compare", "--recipe=recipe.yaml")
    assert [argv[4:] for argv in handed_on] == [
        ["train", "--data-dir", ".sparkgate", "--recipe", "recipe.yaml"],
        ["compare", "--data-dir", ".sparkgate", "--recipe=recipe.yaml"],
    ]


def test_a_mistake_is_one_line(process: Process, folder: Path) -> None:
    (folder / "prompts.jsonl").write_text('{"prompt": "hello", "domain": "sport"}\n')
    done = process("drafter", "data", "--prompts", "prompts.jsonl", "--out", "answers.npz")
    assert done.returncode == 2
    assert done.stderr.strip() == "drafter: prompts.jsonl:1: domain is 'sport', none of math, code, chat"
