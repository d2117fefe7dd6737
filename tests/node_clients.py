"""OpenAI's and Anthropic's own Node clients, in one process for all that is asked of them.

The packages are installed once a machine into `SPARKGATE_TEST_DIR` (default `.sparkgate-test`). What the scenarios do
is said in `node_clients.mjs`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"openai": "7.57.0", "@anthropic-ai/sdk": "1.12.0"}
PATIENCE_S = 240.0


def ask_node(url: str, key: str, scenarios: Mapping[str, Iterable[str]]) -> dict[str, dict[str, Any]]:
    """What the clients understood of a gateway, by model and scenario. `scenarios`: their names, by model.

    Skips the test where there is no Node.
    """
    node = shutil.which("node")
    if node is None:
        pytest.skip("the official Node clients need node, which is not installed")
    script = shutil.copy(Path(__file__).with_suffix(".mjs"), clients_folder())
    wanted = json.dumps({model: list(names) for model, names in scenarios.items()})
    env = {**os.environ, "BASE_URL": url, "KEY": key}
    done = subprocess.run([node, script, wanted], env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    said: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return said


def clients_folder() -> Path:
    """With the packages in it."""
    folder = Path(os.environ.get("SPARKGATE_TEST_DIR", ROOT / ".sparkgate-test")) / "node"
    folder.mkdir(parents=True, exist_ok=True)
    if all((folder / "node_modules" / name).is_dir() for name in PACKAGES):
        return folder
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("the official Node clients are installed by npm, which is not there")
    packages = [f"{name}@{version}" for name, version in PACKAGES.items()]
    install = [npm, "install", "--loglevel=error", "--no-audit", "--no-fund", "--prefix", str(folder)]
    done = subprocess.run([*install, *packages], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, f"{' '.join(install)}: {done.stderr}"
    return folder
