"""`${NAME}` and `${NAME:-default}` in the text values of a file, replaced from the environment.

In: parsed values and a mapping of variables. Out: the values replaced, which paths lacked which variable, and
what must never be shown. `$${` stands for a literal `${`. A default is used when the variable is unset or
empty, as in a shell. Keys are not expanded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.config.mistakes import KeyPath

_REFERENCE = re.compile(
    r"(?P<escape>\$)?\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})?"
)
SECRET_KEYS = frozenset({"api_key", "database_url"})
MIN_HIDDEN_CHARS = 6  # shorter ones are words like "auto", and hiding those would garble every message


@dataclass(slots=True)
class Expanded:
    """`missing` and `malformed` name the paths that could not be expanded; `hidden` maps a value to what to
    show in its place."""

    values: Any = None
    missing: dict[KeyPath, str] = field(default_factory=dict)
    malformed: list[KeyPath] = field(default_factory=list)
    from_environment: set[KeyPath] = field(default_factory=set)
    hidden: dict[str, str] = field(default_factory=dict)

    def is_secret(self, path: KeyPath) -> bool:
        return path in self.from_environment or any(part in SECRET_KEYS for part in path)

    def redact(self, message: str) -> str:
        """The message without any value that came from the environment or stands under a secret key."""
        for value in sorted(self.hidden, key=len, reverse=True):
            message = message.replace(value, self.hidden[value])
        return message


def expand(values: Any, env: Mapping[str, str]) -> Expanded:
    """All text values expanded; a path with an unset variable gets None and is listed in `missing`."""
    expanded = Expanded()
    expanded.values = _walk(values, (), env, expanded)
    return expanded


def references(values: Any) -> list[KeyPath]:
    """Where `${NAME}` is written, for files in which it has no meaning."""
    expanded = expand(values, {})
    return list(dict.fromkeys([*expanded.from_environment, *expanded.malformed]))


def _walk(value: Any, path: KeyPath, env: Mapping[str, str], out: Expanded) -> Any:
    if isinstance(value, dict):
        return {key: _walk(item, (*path, key), env, out) for key, item in value.items()}
    if isinstance(value, list):
        return [_walk(item, (*path, index), env, out) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    text = _expand_text(value, path, env, out)
    if text and path and path[-1] in SECRET_KEYS:
        _hide(out, text, "(hidden)")
    return text


def _expand_text(text: str, path: KeyPath, env: Mapping[str, str], out: Expanded) -> str | None:
    def replacement(found: re.Match[str]) -> str:
        if found["escape"]:
            return found[0][1:]
        name = found["name"]
        if name is None:
            out.malformed.append(path)
            return ""
        out.from_environment.add(path)
        value = env.get(name)
        if not value and found["default"] is not None:
            return found["default"]
        if value is None or (not value and path[-1] in SECRET_KEYS):
            out.missing[path] = name
            return ""
        _hide(out, value, f"${{{name}}}")
        return value

    result = _REFERENCE.sub(replacement, text)
    return None if path in out.missing or path in out.malformed else result


def _hide(out: Expanded, value: str, shown: str) -> None:
    if len(value) >= MIN_HIDDEN_CHARS:
        out.hidden.setdefault(value, shown)
