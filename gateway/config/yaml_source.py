"""`Source`: a YAML text as plain values, with the line of every key and value.

In: text and the name to call it by. Out: dicts, lists and scalars, and two maps from key path to line. A text
that is no YAML raises `ConfigError`; a key given twice or one that is no text is noted and the rest is still
read. Knows nothing of what the keys mean. A problem is worded without quoting values: they may be secrets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from gateway.config.mistakes import ConfigError, KeyPath, Mistake, dotted

MAX_VALUES = 50_000  # aliases of aliases can blow a small text up; no real file comes near this
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(slots=True)
class Source:
    """One parsed file. Lines count from 1; an entry of a mapping has a key line and a value line."""

    name: str
    values: Any = None
    key_lines: dict[KeyPath, int] = field(default_factory=dict)
    value_lines: dict[KeyPath, int] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def key_line(self, path: KeyPath) -> int | None:
        """Where this key is written; for one that is absent, where the nearest mapping around it is."""
        for end in range(len(path), 0, -1):
            line = self.key_lines.get(path[:end], self.value_lines.get(path[:end]))
            if line is not None:
                return line
        return self.value_lines.get((), 1)

    def value_line(self, path: KeyPath) -> int | None:
        return self.value_lines.get(path) or self.key_line(path)

    def note(self, path: KeyPath, line: int | None, message: str) -> None:
        self.mistakes.append(Mistake(self.name, line, dotted(path), message))


def parse(text: str, name: str) -> Source:
    """The whole text as one `Source`; an empty text has the value None.

    Raises ConfigError with the line of the first syntax error, after which nothing can be read.
    """
    source = Source(name)
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                source.values = _Reader(loader, source).read(node, ())
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ConfigError([_syntax_mistake(error, text, name)]) from None
    except RecursionError:
        raise ConfigError([Mistake(name, None, "", "the values are nested too deeply")]) from None
    return source


class _Reader:
    """Turns nodes into values, noting lines on the way."""

    def __init__(self, loader: yaml.SafeLoader, source: Source) -> None:
        self._loader = loader
        self._source = source
        self._open: list[yaml.Node] = []
        self._count = 0

    def read(self, node: yaml.Node, path: KeyPath) -> Any:
        line = node.start_mark.line + 1
        self._source.value_lines[path] = line
        self._count += 1
        if self._count > MAX_VALUES:
            raise ConfigError([Mistake(self._source.name, line, "", f"holds more than {MAX_VALUES} values")])
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path, line)
        if any(node is outer for outer in self._open):
            self._source.note(path, line, "an alias refers to the value that contains it")
            return None
        self._open.append(node)
        try:
            return self._mapping(node, path) if isinstance(node, yaml.MappingNode) else self._list(node, path)
        finally:
            self._open.pop()

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath, line: int) -> Any:
        try:
            return self._loader.construct_object(node)
        except yaml.constructor.ConstructorError:
            self._source.note(path, line, "tags mean nothing here; put a value that begins with ! in quotes")
        except ValueError:
            self._source.note(path, line, "looks like a number or a date but is none; put it in quotes")
        return None

    def _list(self, node: yaml.Node, path: KeyPath) -> list[Any]:
        return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                continue
            line = key_node.start_mark.line + 1
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None or not key_node.tag.endswith(":str"):
                self._source.note(
                    path, line, f"the key {key or '(a collection)'} is not text; put it in quotes"
                )
            elif key in values:
                first = self._source.key_lines[(*path, key)]
                self._source.note((*path, key), line, f"given twice; the first is on line {first}")
            else:
                self._source.key_lines[(*path, key)] = line
                values[key] = self.read(value_node, (*path, key))
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                self._merge(value_node, path, values)
        return values

    def _merge(self, node: yaml.Node, path: KeyPath, values: dict[str, Any]) -> None:
        """`<<: *anchor` or `<<: [*one, *two]`: what is not given here comes from there, earlier first."""
        line = node.start_mark.line + 1
        for part in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(part, yaml.MappingNode):
                self._source.note((*path, "<<"), line, "only mappings can be merged")
                continue
            aside = Source(self._source.name)
            merged = _Reader(self._loader, aside).read(part, path)
            self._source.mistakes += aside.mistakes
            for key in merged.keys() - values.keys():
                values[key] = merged[key]
                at = (*path, key)
                for mine, theirs in (
                    (self._source.key_lines, aside.key_lines),
                    (self._source.value_lines, aside.value_lines),
                ):
                    mine |= {found: line for found, line in theirs.items() if found[: len(at)] == at}


def _syntax_mistake(error: yaml.YAMLError, text: str, name: str) -> Mistake:
    if isinstance(error, yaml.reader.ReaderError):
        line = text[: error.position].count("\n") + 1
        return Mistake(name, line, "", "a control character that YAML does not allow")
    if not isinstance(error, yaml.MarkedYAMLError):
        return Mistake(name, None, "", "this is not YAML")
    mark = error.problem_mark or error.context_mark
    line_or_none = mark.line + 1 if mark else None
    if isinstance(error, yaml.composer.ComposerError):
        problem = (
            "only one YAML document is expected; remove the --- between them"
            if error.context
            else "an alias (*name) without its anchor (&name); put a value that begins with * in quotes"
        )
        return Mistake(name, line_or_none, "", problem)
    problem = error.problem or error.context or ""
    if "\\t" in problem:
        problem = "a tab; indent with spaces"
    elif error.context == "while scanning an alias":
        problem = "a value that begins with * has to be in quotes"
    return Mistake(name, line_or_none, "", f"this is not YAML: {problem}")
