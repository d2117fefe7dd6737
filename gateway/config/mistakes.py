"""`Mistake` and `ConfigError`: what is wrong in a configuration file, where, and what to do.

In: findings of the other files here. Out: one exception that lists all of them, in the order of the file.
Holds rendered text only; whoever makes a `Mistake` has already left secrets out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing to correct. `line` counts from 1, None = the file as a whole; `key` may be empty."""

    file: str
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class ConfigError(Exception):
    """A configuration that cannot be used, with every mistake found in it."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(sorted(mistakes, key=lambda mistake: (mistake.file, mistake.line or 0)))
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))


def dotted(path: KeyPath) -> str:
    """A path as a person writes it: ("targets", 1, "url") → `targets[1].url`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
