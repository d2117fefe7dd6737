"""What differs between two texts, line by line, as a unified diff. In: two texts. Out: lines, HTML."""

from __future__ import annotations

from difflib import unified_diff
from html import escape

from dashboard.markup import Html

_CONTEXT = 3
_CLASSES = {"+": "sg-added", "-": "sg-removed", "@": "sg-place"}


def differences(old: str, new: str) -> list[str]:
    """Lines that begin with +, -, @ or a space; none where the texts are the same."""
    return list(unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=_CONTEXT))[2:]


def counted(lines: list[str]) -> str:
    """`+3 −1`"""
    added, removed = (sum(line.startswith(sign) for line in lines) for sign in "+-")
    return f"+{added} −{removed}"


def drawn(lines: list[str]) -> Html:
    rows = "".join(
        f'<div class="{_CLASSES.get(line[:1], "")}">{escape(line) or "&nbsp;"}</div>' for line in lines
    )
    return Html(f'<div class="sg-diff" tabindex="0">{rows}</div>')
