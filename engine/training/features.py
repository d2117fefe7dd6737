"""What the target computes of its answers, kept in a folder so that it is computed once.

In: conversations and the target as it is served (what a drafter reads depends on its number format). Out, for
every token: the outputs of some layers and the state after the final norm, in bfloat16; for every token that
predicts one of the answer, the logsumexp of the logits. What is missing is computed when first asked for, so a
run starts at once and goes on where it stopped. N = tokens of all conversations, D = hidden size, m = layers.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from collections.abc import Sequence as Ordered
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from engine.batch import build_batch, in_row_order
from engine.errors import StartError
from engine.kv_cache import KVCache, num_blocks_for
from engine.model import LAST_HIDDEN, Model
from engine.scheduler import Chunk
from engine.sequence import Sampling, Sequence
from engine.text import TextStream
from engine.training.answers import Answers

PASS_TOKENS = 1024  # of the target at once; a longer conversation goes alone


@dataclass(frozen=True, slots=True)
class Features:
    """Of one conversation's S tokens."""

    layers: Tensor  # [S, m * D]
    last_hidden: Tensor  # [S, D]
    log_norms: Tensor  # [S] float32; 0 where the next token is no answer's


class FeatureStore:
    """The files: rows of the layers and the last state side by side, logsumexps, and which are there."""

    def __init__(self, folder: Path, answers: Answers, model: Model, layer_ids: tuple[int, ...]) -> None:
        """StartError where the folder holds features of something else."""
        self.answers, self.model, self.layer_ids = answers, model, layer_ids
        self._width = (len(layer_ids) + 1) * model.config.hidden_size
        _check_identity(folder, _identity(answers, model, layer_ids))
        count = len(answers.tokens)
        self._rows = _mapped(folder / "rows.bin", (count, self._width), np.uint16)
        self._norms = _mapped(folder / "log_norms.bin", (count,), np.float32)
        self._is_there = _mapped(folder / "is_there.bin", (len(answers),), np.uint8)

    def get(self, conversations: Ordered[int]) -> list[Features]:
        """Features on the CPU; computes and keeps those that are not there yet."""
        missing = sorted({one for one in conversations if not self._is_there[one]})
        for some in _passes(missing, np.diff(self.answers.offsets)):
            self._compute(some)
        return [self._read(one) for one in conversations]

    def _read(self, conversation: int) -> Features:
        at = self._span(conversation)
        rows = torch.from_numpy(self._rows[at].copy()).view(torch.bfloat16).to(self.model.dtype)
        layers, last_hidden = rows.split(
            [self._width - self.model.config.hidden_size, self.model.config.hidden_size], 1
        )
        return Features(layers, last_hidden, torch.from_numpy(self._norms[at].copy()))

    def _span(self, conversation: int) -> slice:
        first, last = self.answers.offsets[conversation : conversation + 2]
        return slice(int(first), int(last))

    def _compute(self, conversations: list[int]) -> None:
        spans = [self._span(one) for one in conversations]
        sequences, num_blocks = _sequences([self.answers.tokens[at].tolist() for at in spans])
        order = in_row_order([Chunk(one, one.num_pending) for one in sequences])
        model, config = self.model, self.model.config
        batch = build_batch(order, config.num_heads // config.num_kv_heads, model.dtype, model.device)
        wanted: list[int] = []
        first_rows, row = {}, 0
        for chunk in order:
            index = int(chunk.sequence.id)
            first_rows[index] = row
            wanted += range(
                row + int(self.answers.prompt_len[conversations[index]]) - 1, row + chunk.width - 1
            )
            row += chunk.width
        cache = KVCache(
            config.num_layers, num_blocks, config.num_kv_heads, config.head_dim, model.dtype, model.device
        )
        asked = replace(batch, logit_rows=torch.tensor(wanted, device=model.device))
        out = model.forward(asked, cache, (*self.layer_ids, LAST_HIDDEN))
        norms = torch.zeros(row)
        norms[wanted] = torch.logsumexp(out.logits, dim=-1).cpu()
        assert out.features is not None
        rows = out.features.to("cpu", torch.bfloat16)
        for index, (conversation, at) in enumerate(zip(conversations, spans, strict=True)):
            here = slice(first_rows[index], first_rows[index] + at.stop - at.start)
            self._rows[at] = rows[here].view(torch.uint16).numpy()
            self._norms[at] = norms[here].numpy()
            self._is_there[conversation] = 1


def _sequences(tokens: Ordered[list[int]]) -> tuple[list[Sequence], int]:
    """Sequences that own their blocks, named by their places; and the number of all blocks."""
    sequences, num_blocks = [], 0
    for index, token_ids in enumerate(tokens):
        one = Sequence(
            id=str(index),
            prompt_ids=token_ids,
            sampling=Sampling(temperature=0.0),
            max_new_tokens=1,
            text=TextStream(lambda token_id: b"", ()),
        )
        count = num_blocks_for(len(token_ids))
        one.block_ids = list(range(num_blocks, num_blocks + count))
        num_blocks += count
        sequences.append(one)
    return sequences, num_blocks


def _passes(conversations: list[int], lengths: np.ndarray) -> Iterator[list[int]]:
    some: list[int] = []
    num_tokens = 0
    for one in conversations:
        if some and num_tokens + lengths[one] > PASS_TOKENS:
            yield some
            some, num_tokens = [], 0
        some.append(one)
        num_tokens += int(lengths[one])
    if some:
        yield some


def _identity(answers: Answers, model: Model, layer_ids: tuple[int, ...]) -> dict[str, Any]:
    """What the features depend on."""
    told = hashlib.sha256()
    for part in (
        answers.tokens,
        answers.offsets,
        answers.prompt_len,
        model.embedding[:64].float().cpu().numpy(),
    ):
        told.update(np.ascontiguousarray(part).tobytes())
    return {
        "answers_and_embedding": told.hexdigest(),
        "number_format": model.number_format,
        "layer_ids": list(layer_ids),
    }


def _check_identity(folder: Path, identity: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "features.json"
    if not path.exists():
        _write_first(path, json.dumps(identity))
    stored = json.loads(path.read_text(encoding="utf-8"))
    differing = [name for name, value in identity.items() if stored.get(name) != value]
    if differing:
        raise StartError(
            f"{folder} holds features of another {', '.join(differing)}: name another folder, or delete it"
        )


def _write_first(path: Path, text: str) -> None:
    """Whole at once, and the first one stays, of the processes that begin together."""
    scratch = path.with_name(f".{path.name}.{uuid4().hex}")
    scratch.write_text(text, encoding="utf-8")
    with suppress(FileExistsError):
        os.link(scratch, path)
    scratch.unlink()


def _mapped(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
    """The file as an array, made of zeros that take no space where it is missing."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with path.open("ab") as file:
        if file.tell() < size:
            file.truncate(size)
    return np.memmap(path, dtype, "r+", shape=shape)
