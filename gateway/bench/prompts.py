"""The prompts of `bench models`: the bundled ones, or a user's own from a JSONL file, each perhaps with a check.

One JSON object a line: `prompt` (text) or `messages` (as in chat completions), and if wanted `name`, `max_tokens`,
`response_format`, `check`. A check is one of `{"exact": text}`, `{"regex": pattern}`, `{"json_schema": schema}`,
`{"unit_test": Python code}` (see `bench.checks`). In: a file. Out: `Prompt`s. Bad lines are all told at once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

BUNDLED = Path(__file__).with_name("prompts.jsonl")
CheckKind = Literal["exact", "regex", "json_schema", "unit_test"]
_SHOWN_MISTAKES = 20


class PromptsRefused(Exception):
    """A file of prompts cannot be used; the message names each line with its mistake."""


@dataclass(frozen=True, slots=True)
class Check:
    """What an answer must be: `wanted` is a text, a pattern, a schema or a test."""

    kind: CheckKind
    wanted: Any


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request of a benchmark; None leaves the choice to the run, or to the model."""

    name: str
    messages: tuple[dict[str, Any], ...]
    max_tokens: int | None = None
    response_format: dict[str, Any] | None = None
    check: Check | None = None


class _Check(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    exact: str | None = None
    regex: str | None = None
    json_schema: dict[str, Any] | None = None
    unit_test: str | None = None

    @model_validator(mode="after")
    def _one_that_works(self) -> _Check:
        if len(self.given()) != 1:
            raise ValueError("give exactly one of exact, regex, json_schema, unit_test")
        if self.regex is not None:
            try:
                re.compile(self.regex)
            except re.error as error:
                raise ValueError(f"regex: {error}") from None
        if self.json_schema is not None:
            _check_schema(self.json_schema)
        if self.unit_test is not None:
            try:
                compile(self.unit_test, "unit_test", "exec")
            except (SyntaxError, ValueError) as error:
                raise ValueError(f"unit_test is not Python: {error}") from None
        return self

    def given(self) -> dict[CheckKind, Any]:
        values: dict[CheckKind, Any] = {
            "exact": self.exact,
            "regex": self.regex,
            "json_schema": self.json_schema,
            "unit_test": self.unit_test,
        }
        return {kind: value for kind, value in values.items() if value is not None}


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: Annotated[str, Field(min_length=1)] | None = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None
    name: Annotated[str, Field(min_length=1, max_length=80)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    response_format: dict[str, Any] | None = None
    check: _Check | None = None

    @model_validator(mode="after")
    def _one_text(self) -> _Line:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self

    def as_prompt(self, number: int) -> Prompt:
        messages = self.messages or [{"role": "user", "content": self.prompt}]
        given = {} if self.check is None else self.check.given()
        checks = [Check(kind, wanted) for kind, wanted in given.items()]
        return Prompt(
            self.name or f"line {number}",
            tuple(messages),
            self.max_tokens,
            self.response_format,
            checks[0] if checks else None,
        )


def one(prompt: str) -> tuple[Prompt, ...]:
    """The prompts of a run that has a single one."""
    return (Prompt("prompt", ({"role": "user", "content": prompt},)),)


def load(file: Path = BUNDLED) -> tuple[Prompt, ...]:
    """The prompts of a file, in its order. Raises PromptsRefused."""
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise PromptsRefused(f"{file}: {error.strerror or error}") from None
    found: list[Prompt] = []
    mistakes: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(_Line.model_validate(orjson.loads(line)).as_prompt(number))
        except orjson.JSONDecodeError as error:
            mistakes.append(f"{file}:{number}: no JSON: {error.msg} at column {error.colno}")
        except ValidationError as error:
            mistakes += [f"{file}:{number}: {_words(part)}" for part in error.errors(include_url=False)]
    names = [prompt.name for prompt in found]
    mistakes += [f"{file}: several prompts are called '{name}'" for name in _twice(names)]
    if mistakes:
        more = len(mistakes) - _SHOWN_MISTAKES
        rest = [f"and {more} more"] if more > 0 else []
        raise PromptsRefused("\n".join(mistakes[:_SHOWN_MISTAKES] + rest))
    if not found:
        raise PromptsRefused(f"{file}: no prompt in it; each line is a JSON object with a key `prompt`")
    return tuple(found)


def fingerprint(prompts: Sequence[Prompt]) -> str:
    """The same for the same prompts: which were asked is kept, but not their text."""
    return hashlib.sha256(orjson.dumps(list(prompts))).hexdigest()[:12]


def _twice(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _words(part: Any) -> str:
    where = ".".join(str(step) for step in part["loc"])
    what = str(part["msg"]).removeprefix("Value error, ")
    return f"{where}: {what}" if where else what


def _check_schema(schema: dict[str, Any]) -> None:
    from jsonschema.exceptions import SchemaError  # type: ignore[import-untyped]
    from jsonschema.validators import validator_for  # type: ignore[import-untyped]

    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"json_schema: {error.message}") from None
