"""Answers of a target on disk, for drafters to learn from: conversations of one turn, end to end.

In and out: .npz files. Knows no model and no text. n = conversations, N = tokens of all of them.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Ordered
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import StartError

DOMAINS = ("math", "code", "chat")  # their numbers in a file are their places here
_DTYPES = {
    "offsets": np.int64,
    "prompt_len": np.int32,
    "temperature": np.float32,
    "domain": np.uint8,
    "prompt_row": np.int32,
}
_OPTIONAL = ("prompt_row",)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt and the answer to it, with the end token if it came."""

    token_ids: Ordered[int]
    prompt_len: int
    temperature: float
    domain: int
    prompt_row: int


@dataclass(frozen=True, slots=True)
class Answers:
    """Conversations. `prompt_row` is the line of the prompt in its own list, None where not all have one."""

    tokens: np.ndarray  # [N] uint16, uint32 where the vocabulary is larger
    offsets: np.ndarray  # [n + 1] int64
    prompt_len: np.ndarray  # [n] int32, at least 1
    temperature: np.ndarray  # [n] float32
    domain: np.ndarray  # [n] uint8, see DOMAINS
    prompt_row: np.ndarray | None = None  # [n] int32

    @classmethod
    def load(cls, paths: Iterable[Path]) -> Answers:
        """All conversations of the files, one file after the other. StartError where one cannot be read."""
        return joined([_read(Path(path)) for path in paths])

    @classmethod
    def of(cls, conversations: Ordered[Conversation]) -> Answers:
        lengths = [len(one.token_ids) for one in conversations]
        tokens = np.array([token for one in conversations for token in one.token_ids], dtype=np.uint32)
        columns: dict[str, Any] = {
            name: np.array([getattr(one, name) for one in conversations], dtype=_DTYPES[name])
            for name in ("prompt_len", "temperature", "domain", "prompt_row")
        }
        return cls(_narrowed(tokens), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), **columns)

    def __len__(self) -> int:
        return len(self.prompt_len)

    def __iter__(self) -> Iterator[np.ndarray]:
        """The tokens of each conversation, prompt and answer, as views."""
        return (self.tokens[begin:end] for begin, end in zip(self.offsets, self.offsets[1:], strict=False))

    @property
    def num_answer_tokens(self) -> int:
        return len(self.tokens) - int(self.prompt_len.sum(dtype=np.int64))

    def save(self, path: Path, **notes: str | int) -> None:
        """Write or replace `path`, which is whole at any time. `notes` are for `read_notes`."""
        columns = {name: getattr(self, name) for name in self.__slots__}
        stored: dict[str, Any] = {name: column for name, column in columns.items() if column is not None}
        stored |= {name: np.array(note) for name, note in notes.items()}
        scratch = path.with_name(f".{path.name}.part")
        with scratch.open("wb") as file:
            np.savez_compressed(file, **stored)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)


def joined(parts: Ordered[Answers]) -> Answers:
    """One after the other."""
    if not parts:
        return Answers.of([])
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    rows = [part.prompt_row for part in parts if part.prompt_row is not None]
    return Answers(
        tokens=np.concatenate([part.tokens for part in parts]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        prompt_len=np.concatenate([part.prompt_len for part in parts]),
        temperature=np.concatenate([part.temperature for part in parts]),
        domain=np.concatenate([part.domain for part in parts]),
        prompt_row=np.concatenate(rows) if len(rows) == len(parts) else None,
    )


def read_notes(path: Path) -> dict[str, str | int]:
    """What was saved beside the answers."""
    arrays = _arrays(path)
    return {name: array.item() for name, array in arrays.items() if array.ndim == 0}


def _read(path: Path) -> Answers:
    arrays = _arrays(path)
    missing = [name for name in ("tokens", *_DTYPES) if name not in arrays and name not in _OPTIONAL]
    if missing:
        raise StartError(f"{path} lacks {', '.join(missing)}: it is not a file of answers")
    if arrays["tokens"].dtype not in (np.uint16, np.uint32):
        raise StartError(f"{path}: tokens are {arrays['tokens'].dtype}; uint16 or uint32 is expected")
    columns = {name: arrays.get(name) for name in _DTYPES}
    for name, dtype in _DTYPES.items():
        column = columns[name]
        if column is not None and (column.dtype != dtype or column.ndim != 1):
            raise StartError(
                f"{path}: {name} is {column.dtype}{list(column.shape)}; {dtype.__name__}[n] is expected"
            )
    answers = Answers(tokens=arrays["tokens"], **columns)  # type: ignore[arg-type]
    problem = _problem(answers)
    if problem is not None:
        raise StartError(f"{path}: {problem}")
    return answers


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise StartError(f"there is no file {path}; `sparkgate drafter data` writes one")
    try:
        if not zipfile.is_zipfile(path):
            raise StartError(f"{path} is not an .npz file, or not whole")
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise StartError(f"{path} cannot be read: {error}") from None


def _problem(answers: Answers) -> str | None:
    """What is wrong with the figures, None if nothing is."""
    count, offsets = len(answers), answers.offsets
    for name in ("temperature", "domain", "prompt_row"):
        column = getattr(answers, name)
        if column is not None and len(column) != count:
            return f"{len(column)} values of {name} for {count} conversations"
    if len(offsets) != count + 1:
        return f"{len(offsets)} offsets for {count} conversations; one more than these is expected"
    if offsets[0] != 0 or offsets[-1] != len(answers.tokens):
        return f"offsets go from {offsets[0]} to {offsets[-1]}, the tokens from 0 to {len(answers.tokens)}"
    wrong = np.flatnonzero((answers.prompt_len < 1) | (answers.prompt_len >= np.diff(offsets)))
    if len(wrong):
        at = wrong[0]
        length = offsets[at + 1] - offsets[at]
        return (
            f"conversation {at} has {length} tokens, {answers.prompt_len[at]} of them prompt: both need one"
        )
    if count and int(answers.domain.max()) >= len(DOMAINS):
        return f"domain {answers.domain.max()} is none of {', '.join(DOMAINS)} (0 to {len(DOMAINS) - 1})"
    if not bool(np.all(np.isfinite(answers.temperature) & (answers.temperature >= 0))):
        return "a temperature is no finite number from 0 up"
    return None


def _narrowed(tokens: np.ndarray) -> np.ndarray:
    fits = len(tokens) == 0 or int(tokens.max()) <= np.iinfo(np.uint16).max
    return tokens.astype(np.uint16) if fits else tokens
