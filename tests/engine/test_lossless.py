"""The real model's greedy answers: with drafts the same as without, on every path.

Drafts come from prompt lookup, and from guesses that mostly are right, so that blocks of all lengths are
accepted. The paths: chunked prefill, prefix hits, preemption, batches of mixed lengths, stops in a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.batch import build_batch
from engine.checkpoint import read_config
from engine.drafters.base import Drafter
from engine.drafters.lookup import PromptLookup
from engine.kv_cache import KVCache, num_blocks_for
from engine.linear import TILE_ROWS
from engine.load import load_model
from engine.model import Model
from engine.native.library import NativeUnavailable, load_library
from engine.scheduler import Chunk, Limits
from engine.sequence import Sequence
from engine.tokenizer import ModelTokenizer
from tests.engine.guesses import Guesses
from tests.engine.prompts import EVERY, PROMPTS
from tests.engine.test_loop import Recorder, watched
from tests.engine.toy import make_engine, make_sequence, run_all

pytestmark = pytest.mark.long

CPU = torch.device("cpu")
LIMITS = Limits(max_batch=16, prefill_chunk=96)
SMALL_PASSES = Limits(max_batch=3, prefill_chunk=16)  # at most 32 rows: 16 read, and two rounds of 8
LITTLE_MEMORY = 880  # tokens: little more than the longest prompt with its answer
NEAR_TIE = 0.25  # between logits of about 16; bfloat16 keeps eight bits of a number
STOPS = ("\n\n", "the", "1.")


@dataclass(frozen=True)
class Subject:
    """A loaded model with the prompts, and its answers without drafts."""

    model: Model
    tokenizer: ModelTokenizer
    prompts: list[list[int]]
    num_new: int
    limits: Limits
    answers: list[list[int]]

    def sequences(self) -> list[Sequence]:
        made = [
            make_sequence(
                str(at),
                prompt,
                self.num_new if at % 3 else self.num_new // 2,
                end_ids=self.tokenizer.end_ids,
                stops=STOPS if at % 4 == 0 else (),
                token_bytes=self.tokenizer.token_bytes,
            )
            for at, prompt in enumerate(self.prompts)
        ]
        for sequence in made:
            sequence.speculation = "fixed"
        return made


def load(number_format: str, folder: Path, num_new: int, limits: Limits = LIMITS, every: int = 1) -> Subject:
    """Of the prompts, every so many are taken."""
    if number_format == "w8a16":
        try:
            load_library()
        except NativeUnavailable as reason:
            pytest.skip(str(reason))
    model = load_model(read_config(folder), folder, number_format, CPU)
    tokenizer = ModelTokenizer(folder)
    chats = [tokenizer.encode_chat([{"role": "user", "content": text}]) for text in PROMPTS]
    prompts = [*chats, *map(tokenizer.encode, PROMPTS)][:: every * EVERY]
    subject = Subject(model, tokenizer, prompts, num_new, limits, [])
    plain = subject.sequences()
    run_all(make_engine(model, max_batch=limits.max_batch, chunk=limits.prefill_chunk, kv_tokens=8192), plain)
    subject.answers.extend(sequence.output_ids for sequence in plain)
    return subject


def drafted(subject: Subject, drafter: Drafter, kv_tokens: int) -> tuple[list[Sequence], Recorder]:
    """All prompts at once, each with as many drafts as the drafter has."""
    engine = make_engine(
        subject.model,
        max_batch=subject.limits.max_batch,
        chunk=subject.limits.prefill_chunk,
        kv_tokens=kv_tokens,
        drafter=drafter,
    )
    recorder = watched(engine)
    sequences = subject.sequences()
    run_all(engine, sequences)
    assert engine.allocator.num_held == 0
    return sequences, recorder


def guesses(subject: Subject) -> Guesses:
    pairs = zip(subject.prompts, subject.answers, strict=True)
    return Guesses({tuple(prompt): answer for prompt, answer in pairs}, skill=0.85)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("number_format", "num_new", "every"), [("w8a16", 40, 1), ("float32", 24, 2)])
def test_greedy_answers_are_the_same_with_drafts(
    model_folder: Path, number_format: str, num_new: int, every: int
) -> None:
    subject = load(number_format, model_folder, num_new, every=every)
    num_prompts = len({tuple(prompt) for prompt in subject.prompts})
    assert num_prompts == len(subject.prompts)
    assert any(len(prompt) > 2 * LIMITS.prefill_chunk for prompt in subject.prompts)
    sequences, recorder = drafted(subject, guesses(subject), LITTLE_MEMORY)
    assert [sequence.output_ids for sequence in sequences] == subject.answers
    assert {done.accepted for done in recorder.rounds} >= set(range(8 if num_prompts > 20 else 6))
    assert any(0 < done.accepted == done.committed for done in recorder.rounds)  # ended within a block
    assert recorder.num_preempted > 0 or num_prompts < 100  # fewer find room
    assert sum(sequence.num_cached for sequence in sequences) > num_prompts  # the chats begin alike
    sequences, recorder = drafted(subject, PromptLookup(), 8192)
    assert [sequence.output_ids for sequence in sequences] == subject.answers
    assert sum(done.accepted for done in recorder.rounds) > num_prompts // 2


@pytest.mark.usefixtures("two_threads")
@pytest.mark.timeout(900)
def test_bfloat16_answers_are_the_same_with_drafts_in_passes_of_a_tile(model_folder: Path) -> None:
    subject = load("bfloat16", model_folder, 12, SMALL_PASSES, every=2)
    most = SMALL_PASSES.prefill_chunk + (SMALL_PASSES.max_batch - 1) * (1 + guesses(subject).num_slots)
    assert most <= TILE_ROWS
    sequences, recorder = drafted(subject, guesses(subject), LITTLE_MEMORY)
    assert [sequence.output_ids for sequence in sequences] == subject.answers
    assert {done.accepted for done in recorder.rounds} >= set(range(4))
    assert sum(sequence.num_cached for sequence in sequences) > len(subject.prompts)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.timeout(900)
def test_bfloat16_answers_of_larger_passes_part_at_near_ties_only(model_folder: Path) -> None:
    """More rows than a tile are rounded otherwise; float32 must confirm that the two tokens were close."""
    subject = load("bfloat16", model_folder, 12, every=4)
    sequences, _ = drafted(subject, guesses(subject), 8192)
    judge = load_model(read_config(model_folder), model_folder, "float32", CPU)
    parted = [
        (sequence, answer)
        for sequence, answer in zip(sequences, subject.answers, strict=True)
        if sequence.output_ids != answer
    ]
    for sequence, answer in parted:
        same = next(
            at for at, pair in enumerate(zip(sequence.output_ids, answer, strict=False)) if len(set(pair)) > 1
        )
        logits = last_logits(judge, [*sequence.prompt_ids, *answer[:same]])
        top = logits.max()
        for token in (sequence.output_ids[same], answer[same]):
            assert float(top - logits[token]) < NEAR_TIE, f"prompt {sequence.id}, token {same}"
    print(f"{len(parted)} of {len(sequences)} answers parted")
    assert len(parted) < 10


def last_logits(model: Model, token_ids: list[int]) -> Tensor:
    """Of the token after `token_ids`: [V]."""
    config, count = model.config, num_blocks_for(len(token_ids))
    cache = KVCache(config.num_layers, count, config.num_kv_heads, config.head_dim, model.dtype, CPU)
    sequence = make_sequence("a", token_ids)
    sequence.block_ids = list(range(count))
    chunks = [Chunk(sequence, len(token_ids))]
    return model.forward(
        build_batch(chunks, config.num_heads // config.num_kv_heads, model.dtype, CPU), cache
    ).logits[0]
