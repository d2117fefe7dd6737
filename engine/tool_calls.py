"""Calls of functions in an answer's text: how models write them, and reading them out of a stream of text.

In: text, piece by piece, as the model writes it. Out: what is content, and the calls, as soon as they are certain.
Only a function that may be called is; whatever else looks like a call stays content. Knows no HTTP and no tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from engine.text import begun


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One model family's way of writing calls: `first` object `between` object … `last`, all after `trigger`."""

    trigger: str
    first: str
    between: str  # empty: one call an answer
    last: str
    arguments: str  # the key of an object's arguments, after its name
    is_bare: bool = False  # an object at the very beginning of an answer needs no trigger

    def opening(self, name: str) -> str:
        """An object up to its arguments."""
        return f'{{"name": "{name}", "{self.arguments}": '

    def write(self, calls: Iterable[tuple[str, Any]]) -> str:
        """Names and arguments as the model would write them."""
        written = (self.opening(name) + json.dumps(given, ensure_ascii=False) + "}" for name, given in calls)
        lead = "" if self.is_bare else self.trigger
        return lead + self.first + self.between.join(written) + self.last


HERMES = ToolFormat("<tool_call>", "\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>", "arguments")
MISTRAL = ToolFormat("[TOOL_CALLS]", "[", ", ", "]", "arguments")
LLAMA = ToolFormat("<|python_tag|>", "", "", "", "parameters", is_bare=True)
TRIGGERS = frozenset({HERMES.trigger, MISTRAL.trigger, LLAMA.trigger})


def format_of(template: str) -> ToolFormat:
    """The format that a chat template speaks of; Hermes' where it speaks of none."""
    if MISTRAL.trigger in template:
        return MISTRAL
    if HERMES.trigger not in template and (LLAMA.trigger in template or '"parameters": ' in template):
        return LLAMA
    return HERMES


@dataclass(frozen=True, slots=True)
class Function:
    """One function on offer. `definition` is what the model is shown, `schema` what its arguments must match."""

    name: str
    definition: dict[str, Any]
    schema: str
    is_strict: bool = False  # whether the schema holds even where the model is free to call or not


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """What may be called in one answer, and whether something must be."""

    functions: tuple[Function, ...]  # all that the model is shown
    names: frozenset[str]  # those of them that it may call
    is_required: bool = False
    max_calls: int = 1

    @property
    def callable(self) -> tuple[Function, ...]:
        return tuple(function for function in self.functions if function.name in self.names)


@dataclass(frozen=True, slots=True)
class CallPiece:
    """Some characters of a call's arguments; the first piece of a call has its name."""

    index: int  # of the call within the answer, from 0
    name: str | None
    arguments: str


@dataclass(slots=True)
class Pieces:
    """What some text turned out to be."""

    content: str = ""
    calls: list[CallPiece] = field(default_factory=list)


class CallReader:
    """Reads one answer. How its text is cut changes nothing but where pieces end.

    White space between content and a call is nobody's. Arguments are passed on as they were written.
    """

    def __init__(self, form: ToolFormat, names: Iterable[str]) -> None:
        self._form = form
        self._openings = {name: form.opening(name) + "{" for name in names}
        self._place: Literal["content", "opening", "arguments", "end"] = "content"
        self._text = ""  # not yet decided
        self._lead = ""  # what stood before the opening: content again if none comes
        self._first = ""  # what comes between lead and opening
        self._object = _Object()
        self._num_calls = 0
        if form.is_bare:
            self._expect_opening("", form.first)

    @property
    def has_ended_call(self) -> bool:
        """Whether there is a call, and none whose arguments go on."""
        return self._num_calls > 0 and self._place != "arguments"

    def push(self, text: str) -> Pieces:
        """Take more text, return what it makes certain."""
        self._text += text
        pieces = Pieces()
        while self._text and self._advance(pieces):
            pass
        return pieces

    def close(self) -> Pieces:
        """No more text. What can only be the beginning of a call is nobody's, like white space after one."""
        is_begun_call = self._place == "opening" and (self._lead or self._num_calls)
        rest = "" if is_begun_call or self._place in ("arguments", "end") else self._text
        self._text = self._lead = ""
        return Pieces("" if self._num_calls and not rest.strip() else rest)

    def _advance(self, pieces: Pieces) -> bool:
        """Decide some of the text. Returns whether more of it may be decided."""
        match self._place:
            case "content":
                return self._read_content(pieces)
            case "opening":
                return self._read_opening(pieces)
            case "arguments":
                return self._read_arguments(pieces)
            case "end":
                return self._read_end()

    def _read_content(self, pieces: Pieces) -> bool:
        trigger = self._form.trigger
        content, found, rest = self._text.partition(trigger)
        if not found:
            content = content[: len(content) - begun(content, (trigger,))]
        shown = content.rstrip()
        pieces.content += shown
        if not found:
            self._text = self._text[len(shown) :]
            return False
        self._text = rest
        self._expect_opening(content[len(shown) :] + trigger, self._form.first)
        return True

    def _expect_opening(self, lead: str, first: str) -> None:
        self._place, self._lead, self._first = "opening", lead, first

    def _read_opening(self, pieces: Pieces) -> bool:
        ends = {name: _end_of(self._first + opening, self._text) for name, opening in self._openings.items()}
        name = next((name for name, end in ends.items() if end), None)
        if name is not None:
            pieces.calls.append(CallPiece(self._num_calls, name, ""))
            self._num_calls += 1
            self._text = self._text[(ends[name] or 0) - 1 :]
            self._place, self._lead, self._object = "arguments", "", _Object()
        elif None in ends.values():
            return False
        else:
            pieces.content += self._lead
            self._place, self._lead = "content", ""
        return True

    def _read_arguments(self, pieces: Pieces) -> bool:
        count = self._object.take(self._text)
        last = pieces.calls.pop() if pieces.calls else CallPiece(self._num_calls - 1, None, "")
        pieces.calls.append(replace(last, arguments=last.arguments + self._text[:count]))
        self._text = self._text[count:]
        if self._object.is_closed:
            self._place = "end"
        return self._object.is_closed

    def _read_end(self) -> bool:
        """What closes the object: then another one comes, or content."""
        form = self._form
        next_one = _end_of("}" + form.between, self._text) if form.between else 0
        last_one = _end_of("}" + form.last, self._text)
        if next_one:
            self._text = self._text[next_one:]
            self._expect_opening(form.trigger if form.trigger in form.between else "", "")
        elif next_one is None or last_one is None:
            return False
        else:
            self._text = self._text[last_one:]
            self._place = "content"
        return True


class _Object:
    """Finds where a JSON object ends, by its brackets and strings."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._is_escaped = self.is_closed = False

    def take(self, text: str) -> int:
        """How many characters of `text`, which goes on where the last one ended, belong to the object."""
        for at, character in enumerate(text):
            if self._in_string:
                self._in_string = character != '"' or self._is_escaped
                self._is_escaped = character == "\\" and not self._is_escaped
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.is_closed = True
                    return at + 1
        return len(text)


def _end_of(literal: str, text: str) -> int | None:
    """Where `literal` ends at the beginning of `text`, white space aside; 0 if it is not there, None if it may be."""
    at = 0
    for wanted in filter(str.strip, literal):
        while at < len(text) and text[at].isspace():
            at += 1
        if at == len(text):
            return None
        if text[at] != wanted:
            return 0
        at += 1
    return at
