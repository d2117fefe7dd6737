"""What the user asks for and what the system prompt says, of a request in any surface's format; cut to a bounded size.

In: a decoded body. Out: two texts, for inferring the task shape; they are neither kept nor logged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.inference import Inferred, shipped

_TURNS = ("messages", "input", "prompt")  # of chat and messages, of responses, of completions
_SYSTEM_ROLES = ("system", "developer")
_MOST_PARTS = 8  # from either end of a message
_MOST_CHARS = 1_200  # from either end of a part


def inferred_shape(body: Mapping[str, Any]) -> Inferred:
    """The task shape, by the text alone."""
    return shipped().infer(*wording(body))


def wording(body: Mapping[str, Any]) -> tuple[str, str]:
    """The user's last message, and the system prompt; either may be empty."""
    given = next((body[name] for name in _TURNS if body.get(name)), None)
    turns = [turn for turn in given if isinstance(turn, dict)] if isinstance(given, list) else []
    asked = next((turn.get("content") for turn in reversed(turns) if turn.get("role") == "user"), None)
    told = next((turn.get("content") for turn in turns if turn.get("role") in _SYSTEM_ROLES), None)
    return _text(asked if turns else given), _text(body.get("system") or body.get("instructions") or told)


def _text(content: Any) -> str:
    """Of a text, or of a list of parts, of which images and the like say nothing."""
    parts = content if isinstance(content, list) else [content]
    if len(parts) > 2 * _MOST_PARTS:
        parts = parts[:_MOST_PARTS] + parts[-_MOST_PARTS:]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return "\n".join([_cut(text) for text in texts if isinstance(text, str)])


def _cut(text: str) -> str:
    return text if len(text) <= 2 * _MOST_CHARS else text[:_MOST_CHARS] + text[-_MOST_CHARS:]
