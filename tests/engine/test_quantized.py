"""The C++ forward: near float32, and the same to the last bit in any batch, chunking and instruction set."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from engine.checkpoint import read_config, read_weights
from engine.errors import StartError
from engine.linear import Head, has_tiles, make_head
from engine.load import choose_format, load_model
from engine.loop import Engine
from engine.model import LAST_HIDDEN
from engine.native import library
from engine.quantized import QuantizedLlama, can_quantise
from engine.tokenizer import ModelTokenizer
from tests.engine.prompts import EVERY, PROMPTS
from tests.engine.test_model import Runner, assert_one_pass_equals_two, last_logits, tokens
from tests.engine.toy import load_toy, make_engine, make_sequence, run_all, write_toy_model, write_toy_qwen3


def why_not() -> str | None:
    try:
        library.load_library()
    except library.NativeUnavailable as reason:
        return str(reason)
    return None


pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture(scope="module")
def quantized(toy_folder: Path) -> QuantizedLlama:
    return load_quantized(toy_folder)


def load_quantized(folder: Path) -> QuantizedLlama:
    return QuantizedLlama(read_config(folder), read_weights(folder))


@pytest.mark.parametrize("length", [1, 15, 16, 17, 33, 100])
def test_logits_are_near_those_of_transformers(
    quantized: QuantizedLlama, toy_reference: LlamaForCausalLM, length: int
) -> None:
    ids = tokens(length, seed=length)
    ours = Runner(quantized).run((make_sequence("a", ids), length))["a"]
    theirs = last_logits(toy_reference, ids)
    assert (ours - theirs).square().mean().sqrt() < 0.08 * theirs.std()


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False, "head_dim": 32, "vocab_size": 301}])
def test_qwen3_is_near_transformers(tmp_path: Path, changes: dict[str, object]) -> None:
    reference = write_toy_qwen3(tmp_path, **changes)
    ids = tokens(60, seed=4)
    ours = Runner(load_quantized(tmp_path)).run((make_sequence("a", ids), 60))["a"]
    theirs = last_logits(reference, ids)
    assert (ours - theirs).square().mean().sqrt() < 0.08 * theirs.std()


@pytest.mark.parametrize("parts", [(1,) * 6, (3, 16, 17, 20), (8, 8, 8, 8), (40, 1, 1)])
def test_no_bit_depends_on_how_a_prompt_is_cut_up(quantized: QuantizedLlama, parts: tuple[int, ...]) -> None:
    ids = tokens(sum(parts), seed=2)
    whole = Runner(quantized).run((make_sequence("a", ids), len(ids)))["a"]
    runner, sequence = Runner(quantized), make_sequence("a", ids)
    for part in parts:
        logits = runner.run((sequence, part))
    assert torch.equal(logits["a"], whole)


def test_no_bit_depends_on_the_rows_beside(quantized: QuantizedLlama) -> None:
    sequences = [make_sequence(str(at), tokens(5 + 9 * at, seed=at)) for at in range(5)]
    together = Runner(quantized).run(*[(sequence, sequence.num_pending) for sequence in sequences])
    for sequence in sequences:
        alone = make_sequence("alone", sequence.prompt_ids)
        assert torch.equal(Runner(quantized).run((alone, alone.num_pending))["alone"], together[sequence.id])


@pytest.mark.parametrize("parts", [(1,) * 20, (9, 8, 8, 40, 2, 63), (130,)])
def test_no_bit_of_any_row_depends_on_the_steps_it_was_computed_in(
    quantized: QuantizedLlama, parts: tuple[int, ...]
) -> None:
    """Decoding, verifying a few rows and prefilling, beside others that do the same."""
    ids = tokens(150, seed=3)
    whole = Runner(quantized, capture=(LAST_HIDDEN,))
    whole.run((make_sequence("a", ids), len(ids)))
    assert whole.features is not None
    runner, sequence = Runner(quantized, capture=(LAST_HIDDEN,)), make_sequence("a", ids)
    other = make_sequence("b", tokens(150, seed=4))
    first = 0
    for part in parts:
        runner.run((sequence, part), (other, part))
        assert runner.features is not None
        assert torch.equal(runner.features[:part], whole.features[first : first + part])
        first += part


@pytest.mark.parametrize("head_dim", [16, 48, 64, 80, 256])
def test_instruction_sets_agree_to_the_last_bit(tmp_path: Path, head_dim: int) -> None:
    write_toy_model(tmp_path, head_dim=head_dim)
    model = load_quantized(tmp_path)
    if not model.has_amx:
        pytest.skip("this processor has no AMX to compare with")
    ids = tokens(150, seed=6)
    with_amx = Runner(model).run((make_sequence("a", ids), 150))["a"]
    model.use_amx(False)
    assert not model.has_amx
    assert torch.equal(Runner(model).run((make_sequence("a", ids), 150))["a"], with_amx)


def test_greedy_answers_are_the_same_alone_and_in_any_company(quantized: QuantizedLlama) -> None:
    prompts = [tokens(3 + 7 * at, seed=at) for at in range(12)]

    def answers(max_batch: int, chunk: int) -> list[list[int]]:
        sequences = [make_sequence(str(at), prompt, 20) for at, prompt in enumerate(prompts)]
        run_all(make_engine(quantized, max_batch=max_batch, chunk=chunk, kv_tokens=1024), sequences)
        return [sequence.output_ids for sequence in sequences]

    alone = answers(1, 128)
    assert answers(12, 16) == alone
    assert answers(5, 7) == alone


def test_captured_layers_are_near_those_of_float32(toy_folder: Path, quantized: QuantizedLlama) -> None:
    ids = tokens(30, seed=7)
    runners = [Runner(model, capture=(0, 1)) for model in (quantized, load_toy(toy_folder))]
    for runner in runners:
        runner.run((make_sequence("a", ids), 30))
    ours, exact = (runner.features for runner in runners)
    assert ours is not None
    assert exact is not None
    assert (ours.float() - exact).square().mean().sqrt() < 0.08 * exact.std()


def test_one_pass_computes_to_the_last_bit_what_two_do(quantized: QuantizedLlama) -> None:
    assert_one_pass_equals_two(quantized)


def test_the_drafters_head_is_made_once_when_it_first_computes(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Head] = []

    def keep(weight: Tensor) -> Head:
        made.append(make_head(weight))
        return made[-1]

    monkeypatch.setattr("engine.quantized.make_head", keep)
    model = load_quantized(toy_folder)
    head, state = model.head, torch.ones(1, 48, dtype=torch.bfloat16)
    assert not made
    assert torch.equal(head(state), model.head(state))
    assert len(made) == 1


@torch.inference_mode()
@pytest.mark.parametrize("tied", [True, False])
def test_the_heads_see_the_state_after_the_final_norm(tmp_path: Path, tied: bool) -> None:
    write_toy_model(tmp_path, tie_word_embeddings=tied)
    model = load_quantized(tmp_path)
    runner, ids = Runner(model, capture=(LAST_HIDDEN,)), tokens(30, seed=7)
    logits = runner.run((make_sequence("a", ids), 30))["a"]
    assert runner.features is not None
    drafters_logits = model.head(runner.features[-1:])[0]
    assert (drafters_logits - logits).square().mean().sqrt() < 0.02 * logits.std()
    assert (model.head_weight is model.embedding) == tied


def test_sizes_that_are_no_multiple_of_sixteen_are_refused(tmp_path: Path) -> None:
    write_toy_model(tmp_path, intermediate_size=72)
    config = read_config(tmp_path)
    assert not can_quantise(config)
    with pytest.raises(StartError, match="cannot run the sizes"):
        load_model(config, tmp_path, "w8a16", torch.device("cpu"))


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library.load_library.cache_clear()
    write_toy_model(tmp_path / "toy")
    config = read_config(tmp_path / "toy")
    with pytest.raises(StartError, match=r"no C\+\+ compiler.*or use bfloat16"):
        load_model(config, tmp_path / "toy", "w8a16", torch.device("cpu"))
    library.load_library.cache_clear()


@pytest.mark.skipif(not has_tiles(), reason="no AMX")
def test_a_library_built_ahead_serves_without_a_compiler_and_computes_the_same(
    toy_folder: Path, quantized: QuantizedLlama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_AHEAD_PATH", tmp_path / "ahead.so")
    library.build_ahead()
    monkeypatch.setenv("CXX", "no-such-compiler")
    library.load_library.cache_clear()
    ids = tokens(50, seed=3)
    ahead = Runner(load_quantized(toy_folder)).run((make_sequence("a", ids), 50))["a"]
    library.load_library.cache_clear()
    assert torch.equal(ahead, Runner(quantized).run((make_sequence("a", ids), 50))["a"])


@pytest.mark.skipif(not has_tiles(), reason="no AMX")
def test_auto_is_this_format_where_it_can_run(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    write_toy_model(tmp_path / "fits")
    write_toy_model(tmp_path / "odd", intermediate_size=72)
    assert choose_format("auto", cpu, read_config(tmp_path / "fits")) == "w8a16"
    assert choose_format("auto", cpu, read_config(tmp_path / "odd")) != "w8a16"
    assert choose_format("float32", cpu, read_config(tmp_path / "fits")) == "float32"


def test_auto_does_without_a_compiler(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library.load_library.cache_clear()
    chosen = choose_format("auto", torch.device("cpu"), read_config(toy_folder))
    library.load_library.cache_clear()
    assert chosen == choose_format("auto", torch.device("cpu"))
    assert len(caplog.messages) == int(has_tiles())
    assert all("there is no C++ compiler" in message for message in caplog.messages)


def test_the_real_models_greedy_answers_are_the_same_alone_and_in_company(model_folder: Path) -> None:
    """The prompts one by one in one chunk, then together in small chunks, twice over, so that
    the second time meets cached beginnings."""
    tokenizer = ModelTokenizer(model_folder)
    model = load_quantized(model_folder)
    prompts = [tokenizer.encode_chat([{"role": "user", "content": text}]) for text in PROMPTS[::EVERY]]

    def answers(engine: Engine, together: int) -> list[list[int]]:
        made = [
            make_sequence(str(at), prompt, 24, end_ids=tokenizer.end_ids) for at, prompt in enumerate(prompts)
        ]
        for start in range(0, len(made), together):
            run_all(engine, made[start : start + together])
        return [sequence.output_ids for sequence in made]

    alone = answers(make_engine(model, max_batch=1, chunk=1024, kv_tokens=4096, prefix_cache=False), 1)
    company = make_engine(model, max_batch=7, chunk=48, kv_tokens=4096)
    assert answers(company, len(prompts)) == alone
    assert answers(company, len(prompts)) == alone
