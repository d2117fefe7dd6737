"""The examples in this folder take every branch of the router that serves: properties do not count, nor do the scripts
that train its classifier.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROPERTIES = "tests/router/*_properties.py"


def test_every_branch_of_the_router_is_taken(tmp_path: Path) -> None:
    def coverage(command: str, *words: str) -> str:
        data = f"--data-file={tmp_path / 'coverage'}"
        told = [sys.executable, "-m", "coverage", command, data, *words]
        done = subprocess.run(told, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-8_000:] + done.stderr
        return done.stdout

    passed_over = (str(Path(__file__).relative_to(ROOT)), "tests/router/training")
    only = [f"--ignore-glob={PROPERTIES}", *(f"--ignore={each}" for each in passed_over)]
    coverage("run", "--branch", "--source=router", "-m", "pytest", "tests/router", "-q", *only)
    coverage("report", "--show-missing", "--skip-covered", "--omit=router/training/*", "--fail-under=100")
