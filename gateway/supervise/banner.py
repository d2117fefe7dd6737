"""What `sparkgate up` prints once it is ready: URLs, the API key, a call to paste into a shell.

In: values. Out: text lines. The key itself is printed at the start that made it, and only then.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_CALL = {
    "model": "auto",
    "stream": True,
    "messages": [{"role": "user", "content": "Say hello in five words."}],
    "max_tokens": 100,  # a small model may never come to an end by itself
}


@dataclass(frozen=True, slots=True)
class FirstKey:
    """The API key to show. made: by this start; kept: an earlier start left it in `file`; given: by the
    environment; elsewhere: the database has keys, none of which we know."""

    kind: Literal["made", "kept", "given", "elsewhere"]
    file: Path
    key: str | None = None  # only when made

    @property
    def line(self) -> str:
        return {
            "made": f"{self.key}    (kept in {self.file})",
            "kept": f"was shown at the first start; it is in {self.file}",
            "given": "the one in SPARKGATE_API_KEY",
            "elsewhere": "made before; see `sparkgate keys list`, or make one: `sparkgate keys create NAME`",
        }[self.kind]

    @property
    def in_shell(self) -> str:
        """How a shell command says the key, inside double quotes."""
        return {
            "made": str(self.key),
            "kept": f"$(cat {shlex.quote(str(self.file))})",
            "given": "$SPARKGATE_API_KEY",
            "elsewhere": "YOUR_KEY",
        }[self.kind]


def ready_text(
    gateway_url: str, key: FirstKey, dashboard_url: str | None, took_s: float, notes: list[str]
) -> str:
    """The whole message. `notes` are sentences on what is not as it should be."""
    rows = [("gateway", f"{gateway_url}/v1"), ("API key", key.line)]
    if dashboard_url is not None:
        rows.append(("dashboard", dashboard_url))
    lines = ["", f"sparkgate is ready after {took_s:.1f} s.", ""]
    lines += [f"  {name:<10} {value}" for name, value in rows]
    lines += [f"  {'note':<10} {note}" for note in notes]
    return "\n".join([*lines, "", f"  {curl(gateway_url, key)}", ""])


def curl(gateway_url: str, key: FirstKey) -> str:
    """One line that streams a chat completion."""
    return (
        f"curl -N {gateway_url}/v1/chat/completions -H 'Content-Type: application/json' "
        f'-H "Authorization: Bearer {key.in_shell}" -d {shlex.quote(json.dumps(_CALL))}'
    )
