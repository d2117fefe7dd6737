"""What a pass of the target costs at several numbers of rows: measured before anything is served, and kept.

In: a model and a cache whose content nobody needs yet. Out: seconds by rows, for `engine.step_costs`.
Measuring takes about a second, many on a busy machine, so a curve is kept for the next start, by a name that
says what it belongs to.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from engine.batch import build_batch, in_row_order
from engine.kv_cache import KVCache, num_blocks_for
from engine.model import Model
from engine.scheduler import Chunk
from engine.sequence import Sampling, Sequence
from engine.text import TextStream

# Kernels work on tiles of rows, so that the row after a full tile is the dear one.
_NUMBERS = (1, 4, 8, 16, 17, 24, 32, 33, 48, 64, 65, 96, 128, 129, 192, 256)
_CONTEXT = 128  # tokens before the rows
_ROUNDS = 2


def measure_curve(
    model: Model, cache: KVCache, most_rows: int, width: int, clock: Callable[[], float]
) -> dict[int, float]:
    """Seconds of rounds with up to `most_rows` rows, `width` or fewer a sequence."""
    numbers = [rows for rows in _NUMBERS if rows <= most_rows]
    _run(model, cache, _chunks(numbers[-1], width, cache.num_blocks))  # pays for the set-up
    curve: dict[int, float] = {}
    for rows in numbers:
        chunks = _chunks(rows, width, cache.num_blocks)
        seconds: list[float] = []
        for _ in range(_ROUNDS):
            begun_s = clock()
            _run(model, cache, chunks)
            seconds.append(clock() - begun_s)
        curve[rows] = min(seconds)
    return curve


def kept_curve(file: Path, name: str) -> dict[int, float] | None:
    """The curve that `keep_curve` wrote under this name; None where there is none that can be read."""
    try:
        curve = json.loads(file.read_text(encoding="utf-8"))[name]
        return {int(rows): float(seconds) for rows, seconds in curve.items()} or None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def keep_curve(file: Path, name: str, curve: Mapping[int, float]) -> None:
    """Write it for a later start; the file holds one curve. Raises `OSError`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.{os.getpid()}")
    unfinished.write_text(json.dumps({name: dict(curve)}), encoding="utf-8")
    unfinished.replace(file)


def _run(model: Model, cache: KVCache, chunks: list[Chunk]) -> None:
    repeats = model.config.num_heads // model.config.num_kv_heads
    batch = build_batch(in_row_order(chunks), repeats, model.dtype, model.device)
    model.forward(batch, cache).logits.amax().item()  # waits for the device


def _chunks(num_rows: int, width: int, num_blocks: int) -> list[Chunk]:
    """Rounds of sequences nobody asked for; they share blocks where the cache is small."""
    per_sequence = num_blocks_for(_CONTEXT + width)
    chunks: list[Chunk] = []
    while num_rows > 0:
        sequence = Sequence("", [1] * (_CONTEXT + 1), Sampling(), 1, TextStream(lambda token_id: b""))
        sequence.num_computed = _CONTEXT
        first = len(chunks) * per_sequence
        sequence.block_ids = [at % num_blocks for at in range(first, first + per_sequence)]
        rows = min(width, num_rows)
        chunks.append(Chunk(sequence, 1, (1,) * (rows - 1)))
        num_rows -= rows
    return chunks
