"""A folder of its own for every CLI test, and the CLI in this process and in one of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.main import build_app

Cli = Callable[..., Result]
Process = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory; no variable of ours is set."""
    monkeypatch.chdir(tmp_path)
    for variable in ("SPARKGATE_API_KEY", "SPARKGATE_DATABASE_URL", "SPARKGATE_TRACEBACK"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


@pytest.fixture
def cli(folder: Path) -> Cli:
    """Runs a command in this process; known errors arrive as `result.exception`."""

    def run(*args: str, env: Mapping[str, str] | None = None) -> Result:
        return CliRunner().invoke(build_app(), list(args), env=dict(env or {}))

    return run


@pytest.fixture
def process(folder: Path) -> Process:
    """Runs the command as users do."""

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "gateway.cli.main", *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run
