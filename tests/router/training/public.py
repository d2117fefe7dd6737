"""Public data sets that are not ours to carry along: read from the folder that `SPARKGATE_TEST_DATA` names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "SPARKGATE_TEST_DATA"
_FOLDER = Path(os.environ.get(VARIABLE) or "/nonexistent")
LLMROUTER = _FOLDER / "task_shapes" / "llmrouter_train.jsonl"
PROMPTS = _FOLDER / "prompts" / "train.jsonl"
needs_public_data = pytest.mark.skipif(
    not (LLMROUTER.is_file() and PROMPTS.is_file()),
    reason=f"{VARIABLE} names no folder with task_shapes/llmrouter_train.jsonl and prompts/train.jsonl",
)
