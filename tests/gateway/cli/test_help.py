"""`--help` as a manual page: what each command does, reads and writes, its exit codes, and examples that parse."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.command_lines import commands, unparsed
from tests.gateway.cli.conftest import Cli

HANDED_ON = "drafter"  # its commands have the help of the engine's own
COMMANDS = [(path, command) for path, command in commands() if path[0] != HANDED_ON]
PRINT_NO_DATA = {
    ("up",),
    ("gateway",),
    ("engine",),
    ("dashboard",),
    ("schema",),
}  # schema prints JSON as it is


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[" ".join(path) for path, _ in COMMANDS])
def test_a_command_explains_itself(path: tuple[str, ...], command: Any) -> None:
    assert command.help
    facts, _, examples = command.epilog.partition("\n\nExamples:\n")
    assert [line.partition(":")[0] for line in facts.splitlines()] == ["Reads", "Writes", "Exit codes"]
    for example in examples.splitlines():
        assert " ".join(["sparkgate", *path]) in example
        assert unparsed(example) is None, example
    for param in command.params:
        assert getattr(param, "help", None) or param.name == "help", f"{param.name} has no help"


def test_whatever_prints_data_prints_json_too() -> None:
    without = {
        path for path, command in COMMANDS if "--json" not in {o for p in command.params for o in p.opts}
    }
    assert without == PRINT_NO_DATA


def test_one_name_means_one_thing_everywhere() -> None:
    """Whatever the command, an option of one name takes one kind of value."""
    kinds: dict[str, set[tuple[str | None, bool]]] = {}
    for _, command in COMMANDS:
        for param in command.params:
            for name in param.opts:
                if name.startswith("--"):
                    kinds.setdefault(name, set()).add((param.metavar, param.is_flag))
    assert {name: kind for name, kind in kinds.items() if len(kind) > 1} == {}


def test_help_shows_it_all(cli: Cli) -> None:
    shown = re.sub(r"\s+", " ", cli("policy", "check", "--help", env={"COLUMNS": "200"}).output)
    assert "Exit codes: 0 both files are right; 1 a mistake was found; 2 refused" in shown
    assert "Examples: sparkgate policy check sparkgate policy check new.yaml --json" in shown
