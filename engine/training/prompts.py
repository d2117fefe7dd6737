"""Prompts to sample answers to, or to measure a drafter on: JSON lines with `prompt` and `domain`.

In: a file. Out: `Prompt`s in its order. Our own for evaluation lie beside this module, and
some whose answers copy from them. Knows no model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from engine.errors import StartError
from engine.training.answers import DOMAINS

EVALUATION_PROMPTS = Path(__file__).with_name("evaluation_prompts.jsonl")


@dataclass(frozen=True, slots=True)
class Prompt:
    """What one user asks."""

    text: str
    domain: str  # one of DOMAINS


def read_prompts(path: Path) -> list[Prompt]:
    """StartError names the line that is wrong."""
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"{path} cannot be read: {error}") from None
    return [_prompt(f"{path}:{at}", line) for at, line in enumerate(lines, start=1)]


def _prompt(at: str, line: str) -> Prompt:
    try:
        raw = json.loads(line)
        prompt, domain = raw["prompt"], raw["domain"]
    except (ValueError, TypeError, KeyError):
        raise StartError(f'{at}: a line like {{"prompt": "…", "domain": "code"}} is expected') from None
    if not isinstance(prompt, str) or not prompt.strip():
        raise StartError(f"{at}: prompt should be text that is not empty")
    if domain not in DOMAINS:
        raise StartError(f"{at}: domain is {domain!r}, none of {', '.join(DOMAINS)}")
    return Prompt(prompt, domain)
