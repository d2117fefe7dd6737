"""The real model's greedy answers against `transformers.generate`, token for token, in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from engine.sequence import Sequence
from engine.tokenizer import ModelTokenizer
from tests.engine.prompts import EVERY, PROMPTS
from tests.engine.toy import load_toy, make_engine, make_sequence, run_all

NUM_NEW = 12
CHUNK = 128


def expected_answers(folder: Path, prompts: list[list[int]]) -> list[list[int]]:
    """transformers' answers, in padded batches of similar lengths to save time."""
    reference = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    answers: dict[int, list[int]] = {}
    by_length = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
    for start in range(0, len(by_length), 10):
        group = by_length[start : start + 10]
        padded = tokenizer.pad({"input_ids": [prompts[at] for at in group]}, return_tensors="pt")
        output = reference.generate(**padded, max_new_tokens=NUM_NEW, do_sample=False)
        for at, row in zip(group, output[:, padded["input_ids"].shape[1] :].tolist(), strict=True):
            end = row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else NUM_NEW
            answers[at] = row[:end]
    return [answers[at] for at in range(len(prompts))]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.timeout(900)  # a minute on a free core, several on a busy one
def test_greedy_answers_equal_transformers_token_for_token(model_folder: Path) -> None:
    assert len(set(PROMPTS)) == 50
    tokenizer = ModelTokenizer(model_folder)
    prompts = [
        tokenizer.encode(text) if at % 5 == 1 else tokenizer.encode_chat([{"role": "user", "content": text}])
        for at, text in enumerate(PROMPTS)
    ][::EVERY]
    assert sum(len(prompt) > 2 * CHUNK for prompt in prompts) >= 5 // EVERY
    engine = make_engine(load_toy(model_folder), max_batch=12, chunk=CHUNK, kv_tokens=4096)
    expected = expected_answers(model_folder, prompts)
    num_cached = []
    for _ in range(2):  # the second time with known beginnings, as far as the memory has kept them
        sequences = [
            make_sequence(str(at), prompt, NUM_NEW, end_ids=tokenizer.end_ids)
            for at, prompt in enumerate(prompts)
        ]
        run_all(engine, sequences)
        assert wrong_answers(sequences, expected) == {}
        assert engine.allocator.num_held == 0
        num_cached.append(sum(sequence.num_cached for sequence in sequences))
    assert num_cached[1] > num_cached[0] > 0  # the chats share the template's first blocks from the start


def wrong_answers(
    sequences: list[Sequence], expected: list[list[int]]
) -> dict[str, tuple[list[int], list[int]]]:
    return {
        sequence.id: (sequence.output_ids, answer)
        for sequence, answer in zip(sequences, expected, strict=True)
        if sequence.output_ids != answer
    }
