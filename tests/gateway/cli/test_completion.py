"""Shell completion: the shells' own protocols, and names out of sparkgate.yaml and a running database."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy
from typer._completion_classes import BashComplete  # typer offers no public way to ask for completions

from tests.command_lines import root

DEPLOYMENT = """
targets: [{name: flash, kind: openai, base_url: "http://127.0.0.1:1", model: m}]
models: {gpt-4o: auto, "claude-*": auto}
"""


def completed(*words: str) -> list[str]:
    """What is offered for the last of the words."""
    complete = BashComplete(root(), {}, "sparkgate", "_SPARKGATE_COMPLETE")
    return [item.value for item in complete.get_completions(list(words[:-1]), words[-1])]


def test_models_and_shapes(folder: Path) -> None:
    (folder / "sparkgate.yaml").write_text(DEPLOYMENT)
    offered = completed("bench", "models", "")
    assert {"auto", "engine", "flash", "gpt-4o", "auto/support"} <= set(offered)
    assert "claude-*" not in offered
    assert completed("bench", "models", "fl") == ["flash"]
    assert completed("policy", "explain", "--shape", "sum") == ["summarization"]
    (folder / "other.yaml").write_text("targets: [{name: flush, kind: engine, url: 'http://h:1'}]")
    assert completed("bench", "models", "--config", "other.yaml", "fl") == ["flush"]


@pytest.mark.parametrize("mistake", ["targets: 7", "database_url: 'mysql://h/x'", "${", "\x00"])
def test_a_file_with_mistakes_offers_less_and_says_nothing(
    folder: Path, mistake: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "sparkgate.yaml").write_text(mistake)
    assert "auto" in completed("bench", "models", "")
    assert completed("keys", "revoke", "") == []
    assert capfd.readouterr() == ("", "")


def test_no_database_is_started_for_it(folder: Path) -> None:
    assert completed("tasks", "show", "") == []
    assert completed("bench", "compare", "") == ["latest", "latest~1"]
    assert list(folder.iterdir()) == []


def test_names_out_of_the_database(
    clean_database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARKGATE_DATABASE_URL", clean_database_url)
    rows = """
    INSERT INTO api_keys (id, name, hash, prefix, revoked_at) VALUES
        (gen_random_uuid(), 'web', 'a', 'sg-a', NULL), (gen_random_uuid(), 'was', 'b', 'sg-b', now());
    INSERT INTO tasks (caller, task_id, first_seen_at) VALUES ('web', 'ticket-1', now()), ('web', 'bug-1', now());
    INSERT INTO policies (id, hash, yaml, source) VALUES
        (uuidv7(), 'aa11', '', 'cli'), (uuidv7(), 'ab22', '', 'cli'), (uuidv7(), 'aa11', '', 'cli');
    INSERT INTO bench_runs (id, kind, started_at, settings, results) VALUES (uuidv7(), 'models', now(), '{}', '{}');
    """
    engine = sqlalchemy.create_engine(clean_database_url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(rows))
    engine.dispose()
    assert completed("keys", "revoke", "w") == ["web", "was"]
    assert completed("tasks", "list", "--caller", "we") == ["web"]
    assert completed("tasks", "show", "tick") == ["ticket-1"]
    assert completed("policy", "rollback", "a") == ["aa11", "ab22"]
    assert len(completed("bench", "compare", "latest", "")) == 3
    assert len(completed("bench", "compare", "latest", "0")) == 1


SHELLS = {
    "bash": {"COMP_WORDS": "sparkgate policy ch", "COMP_CWORD": "2"},
    "zsh": {"_TYPER_COMPLETE_ARGS": "sparkgate policy ch"},
    "fish": {"_TYPER_COMPLETE_ARGS": "sparkgate policy ch", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
}


@pytest.fixture
def sparkgate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command by its name, as a shell finds it."""
    program = folder / "bin" / "sparkgate"
    program.parent.mkdir()
    code = "import sys; sys.argv[0] = 'sparkgate'; from gateway.cli.main import main; main()"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -c "{code}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_is_answered(shell: str, sparkgate: Path) -> None:
    env = {**os.environ, **SHELLS[shell], "_SPARKGATE_COMPLETE": f"complete_{shell}"}
    done = subprocess.run([str(sparkgate)], env=env, capture_output=True, text=True, check=True)
    assert "check" in done.stdout
    assert "explain" not in done.stdout


def test_bash_completes_with_the_script_that_is_shown(sparkgate: Path) -> None:
    shown = {**os.environ, "_SPARKGATE_COMPLETE": "source_bash"}
    script = subprocess.run([str(sparkgate)], env=shown, capture_output=True, text=True, check=True).stdout
    pressed = 'COMP_WORDS=(sparkgate keys cr); COMP_CWORD=2; _sparkgate_completion sparkgate; echo "${COMPREPLY[*]}"'
    bash = ["bash", "--norc", "-c", f"{script}\n{pressed}"]
    done = subprocess.run(bash, capture_output=True, text=True, check=True)
    assert done.stdout == "create\n"
