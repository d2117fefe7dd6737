from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from engine.blocks import BlockAllocator
from engine.kv_cache import BLOCK_TOKENS, num_blocks_for
from engine.model import Llama
from engine.prefix import block_digest, digests_of, find_prefix, publish_full_blocks, release, take_prefix
from engine.sequence import Sequence
from tests.engine.test_loop import BrokenOnce, generate, random_prompt
from tests.engine.toy import make_engine, make_sequence, run_all

SYSTEM = random_prompt(50, 100)  # six full blocks and four tokens


def compute(sequence: Sequence, allocator: BlockAllocator, num_tokens: int) -> None:
    """What a step does to the books."""
    wanted = num_blocks_for(sequence.num_computed + num_tokens) - len(sequence.block_ids)
    sequence.block_ids += allocator.allocate(wanted)
    sequence.num_computed += num_tokens
    publish_full_blocks(sequence, allocator)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.lists(st.integers(0, 3), max_size=80))
def test_exactly_the_common_full_blocks_are_found(first_ids: list[int], second_ids: list[int]) -> None:
    allocator = BlockAllocator(20)
    first, second = make_sequence("1", first_ids), make_sequence("2", [*second_ids, 0])
    compute(first, allocator, len(first_ids))
    common = 0
    for one, other in zip(first_ids, second.prompt_ids, strict=False):
        if one != other:
            break
        common += 1
    expected = min(common, len(second_ids)) // BLOCK_TOKENS  # its last token is always computed
    assert find_prefix(second, allocator) == first.block_ids[:expected]


def test_at_least_the_last_token_is_left_to_compute() -> None:
    allocator, prompt = BlockAllocator(8), [7] * (3 * BLOCK_TOKENS)
    first, second = make_sequence("1", prompt), make_sequence("2", prompt)
    compute(first, allocator, len(prompt))
    take_prefix(second, allocator, find_prefix(second, allocator))
    assert (second.num_computed, second.num_pending) == (2 * BLOCK_TOKENS, BLOCK_TOKENS)


def test_names_depend_on_every_token_before_them() -> None:
    block = list(range(BLOCK_TOKENS))
    root = block_digest(b"", block)
    assert block_digest(root, block) != root
    assert block_digest(root, block) != block_digest(block_digest(b"", [*block[:-1], 99]), block)


def test_answers_are_named_like_prompts() -> None:
    spoken = make_sequence("1", [1] * 10)
    spoken.output_ids = [2] * 30
    asked = make_sequence("2", [1] * 10 + [2] * 30)
    assert digests_of(spoken, 2) == digests_of(asked, 2)


def test_only_computed_full_blocks_can_be_found() -> None:
    allocator, prompt = BlockAllocator(8), [5] * 60
    writing, other = make_sequence("1", prompt), make_sequence("2", prompt)
    compute(writing, allocator, 40)
    assert find_prefix(other, allocator) == writing.block_ids[:2]
    release(writing, allocator)  # cancelled in mid-block
    assert len(find_prefix(other, allocator)) == 2
    assert (allocator.num_cached, allocator.num_held) == (2, 0)


@pytest.mark.parametrize(("kv_tokens", "chunk"), [(2048, 16), (2048, 7), (256, 16), (256, 50)])
def test_answers_after_a_prefix_hit_equal_transformers(
    toy_model: Llama, toy_reference: LlamaForCausalLM, kv_tokens: int, chunk: int
) -> None:
    """Mixed lengths with a common beginning, thrice over: cold, warm, and continued conversations."""
    engine = make_engine(toy_model, kv_tokens=kv_tokens, chunk=chunk)
    prompts = [SYSTEM[: 100 - 9 * n] + random_prompt(n, 3 + 7 * n) for n in range(6)]
    hits: list[int] = []
    for turn in range(3):
        sequences = [make_sequence(f"{turn}-{n}", prompt, 30) for n, prompt in enumerate(prompts)]
        run_all(engine, sequences)
        for sequence in sequences:
            assert sequence.output_ids == generate(toy_reference, sequence.prompt_ids, 30)
        engine.allocator.check()
        assert engine.allocator.num_held == 0
        hits.append(sum(sequence.num_cached for sequence in sequences))
        if turn == 1:
            prompts = [sequence.prompt_ids + sequence.output_ids + [9] for sequence in sequences]
    assert hits[1] > 0
    if kv_tokens == 2048:  # enough to keep everything: each turn finds all but the last, partial block
        assert hits[1] == sum((len(p) - 31 - 1) // BLOCK_TOKENS * BLOCK_TOKENS for p in prompts)
        assert hits[2] == sum((len(p) - 2) // BLOCK_TOKENS * BLOCK_TOKENS for p in prompts)


def test_without_the_cache_everything_is_computed(toy_model: Llama) -> None:
    engine = make_engine(toy_model, prefix_cache=False)
    sequences = [make_sequence(str(n), SYSTEM, 5) for n in range(2)]
    for sequence in sequences:
        run_all(engine, [sequence])
    assert [sequence.num_cached for sequence in sequences] == [0, 0]
    assert engine.allocator.num_cached == 0
    assert sequences[0].output_ids == sequences[1].output_ids


def test_equal_prompts_at_once_end_up_in_the_same_blocks(toy_model: Llama) -> None:
    engine = make_engine(toy_model, chunk=400)
    for n in range(3):
        engine.submit(make_sequence(str(n), SYSTEM, 50))
    engine.take_commands()
    engine.step()
    assert len({tuple(sequence.block_ids[:6]) for sequence in engine.running}) == 1
    assert engine.allocator.num_held == 6 + 3


def test_a_preempted_sequence_finds_its_blocks_again(toy_model: Llama) -> None:
    """So a load that preempts takes fewer steps."""
    assert engine_steps(toy_model, prefix_cache=True) < engine_steps(toy_model, prefix_cache=False)


def engine_steps(model: Llama, *, prefix_cache: bool) -> int:
    """Steps for nine sequences in the memory of three."""
    engine = make_engine(model, kv_tokens=208, prefix_cache=prefix_cache)
    for n in range(9):
        engine.submit(make_sequence(str(n), random_prompt(n, 5 + 11 * n), 40))
    engine.take_commands()
    steps = 0
    while engine.running or engine.waiting:
        engine.step()
        steps += 1
    return steps


def test_a_failed_steps_blocks_are_never_found(toy_model: Llama, toy_reference: LlamaForCausalLM) -> None:
    """The second chunk breaks after the first one was published: only the first may be reused."""
    engine = make_engine(BrokenOnce(toy_model, poison=260), chunk=32)
    prompt = random_prompt(1, 40)
    (broken,) = run_all(engine, [make_sequence("bad", [*prompt, 260, *prompt])])
    assert broken.error is not None
    assert engine.allocator.num_cached == 2
    after = make_sequence("after", [*prompt, 3], 10)
    run_all(engine, [after])
    assert after.num_cached == 32
    assert after.output_ids == generate(toy_reference, after.prompt_ids, 10)


def test_cancelled_sequences_leave_only_right_content(
    toy_model: Llama, toy_reference: LlamaForCausalLM
) -> None:
    engine = make_engine(toy_model, kv_tokens=512, chunk=11)
    choose = random.Random(8)
    for n in range(12):
        prompt = SYSTEM[: 20 + 6 * n] + random_prompt(n, 30)
        engine.submit(make_sequence(str(n), prompt, 20))
        engine.take_commands()
        for _ in range(choose.randint(1, 8)):
            engine.step()
        engine.cancel(str(n))
        engine.take_commands()
        engine.allocator.check()
    assert engine.allocator.num_held == 0
    last = make_sequence("last", [*SYSTEM, 1, 2], 20)
    run_all(engine, [last])
    assert last.num_cached > 0
    assert last.output_ids == generate(toy_reference, last.prompt_ids, 20)
