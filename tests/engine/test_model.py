"""The forward against transformers' Llama and Qwen3 on toy models, in float32."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaForCausalLM

from engine.batch import build_batch, in_row_order
from engine.kv_cache import BLOCK_TOKENS, KVCache, num_blocks_for
from engine.linear import TILE_ROWS, has_fast_bfloat16
from engine.model import LAST_HIDDEN, Llama, Model
from engine.scheduler import Chunk
from engine.sequence import Sequence
from tests.engine.devices import DEVICES
from tests.engine.toy import load_toy, make_sequence, write_toy_model, write_toy_qwen3

PARITY = Path(__file__).parents[1] / "fixtures" / "dspark_parity"


class Runner:
    """Computes chunks with blocks handed out from scattered places."""

    def __init__(self, model: Model, num_blocks: int = 64, capture: tuple[int, ...] = ()) -> None:
        self.model, self.capture = model, capture
        self.features: Tensor | None = None  # of the last run
        config = model.config
        self.cache = KVCache(
            config.num_layers, num_blocks, config.num_kv_heads, config.head_dim, model.dtype, model.device
        )
        self.free = list(range(0, num_blocks, 2)) + list(range(1, num_blocks, 2))

    def run(self, *counts: tuple[Sequence, int]) -> dict[str, Tensor]:
        """Compute so many pending tokens of each sequence; logits of those with nothing left pending."""
        chunks = in_row_order([Chunk(sequence, count) for sequence, count in counts])
        for chunk in chunks:
            sequence = chunk.sequence
            while len(sequence.block_ids) < num_blocks_for(sequence.num_computed + chunk.num_tokens):
                sequence.block_ids.append(self.free.pop(0))
        repeats = self.model.config.num_heads // self.model.config.num_kv_heads
        batch = build_batch(chunks, repeats, self.model.dtype, self.model.device)
        forwarded = self.model.forward(batch, self.cache, self.capture)
        self.features, logits = forwarded.features, forwarded.logits.cpu()
        final = [chunk.sequence.id for chunk in chunks if chunk.is_final]
        for chunk in chunks:
            chunk.sequence.num_computed += chunk.num_tokens
        return dict(zip(final, logits, strict=True))


def tokens(count: int, seed: int) -> list[int]:
    return torch.randint(0, 256, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.inference_mode()
def last_logits(reference: LlamaForCausalLM, ids: list[int]) -> Tensor:
    return reference(torch.tensor([ids])).logits[0, -1]


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float = 2e-4) -> None:
    assert (ours - theirs).abs().max() < tolerance


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("length", [1, 2, BLOCK_TOKENS, BLOCK_TOKENS + 1, 100])
def test_prefill_equals_transformers(
    toy_folder: Path, toy_reference: LlamaForCausalLM, length: int, device: str
) -> None:
    ids = tokens(length, seed=length)
    ours = Runner(load_toy(toy_folder, device=device)).run((make_sequence("a", ids), length))
    assert_close(ours["a"], last_logits(toy_reference, ids))


@pytest.mark.parametrize("chunk", [1, 3, 8, 9, 16, 50])
def test_prefill_in_chunks_equals_transformers(
    toy_model: Llama, toy_reference: LlamaForCausalLM, chunk: int
) -> None:
    ids, sequence, runner = tokens(75, seed=1), make_sequence("a", tokens(75, seed=1)), Runner(toy_model)
    logits: dict[str, Tensor] = {}
    while sequence.num_pending:
        logits = runner.run((sequence, min(chunk, sequence.num_pending)))
    assert_close(logits["a"], last_logits(toy_reference, ids))


@pytest.mark.parametrize("device", DEVICES)
def test_decoding_a_batch_of_mixed_lengths_beside_a_prefill_equals_transformers(
    toy_folder: Path, toy_reference: LlamaForCausalLM, device: str
) -> None:
    runner = Runner(load_toy(toy_folder, device=device))
    sequences = [make_sequence(str(length), tokens(length, seed=length)) for length in (1, 5, 16, 17, 60)]
    for sequence in sequences:
        runner.run((sequence, sequence.num_pending))
    newcomer = make_sequence("new", tokens(45, seed=99))
    for step in range(20):
        for sequence in sequences:
            sequence.output_ids.append((step * 7 + len(sequence.prompt_ids)) % 256)
        work = [(sequence, 1) for sequence in sequences]
        if newcomer.num_pending:
            work.append((newcomer, min(15, newcomer.num_pending)))
        logits = runner.run(*work)
        for sequence in sequences:
            assert_close(
                logits[sequence.id], last_logits(toy_reference, sequence.prompt_ids + sequence.output_ids)
            )
    assert newcomer.num_pending == 0


def test_several_new_rows_a_sequence_share_one_call(
    toy_model: Llama, toy_reference: LlamaForCausalLM
) -> None:
    runner = Runner(toy_model)
    first, second = make_sequence("a", tokens(30, seed=3)), make_sequence("b", tokens(12, seed=4))
    runner.run((first, 26), (second, 8))
    logits = runner.run((first, 4), (second, 4))
    assert_close(logits["a"], last_logits(toy_reference, first.prompt_ids))
    assert_close(logits["b"], last_logits(toy_reference, second.prompt_ids))


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_word_embeddings": False},
        {"num_key_value_heads": 6},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}},
        {"rope_parameters": LLAMA3_ROPE},
    ],
)
def test_variants_of_the_architecture_equal_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    reference = write_toy_model(tmp_path, **changes)
    ids = tokens(200, seed=8)
    ours = Runner(load_toy(tmp_path)).run((make_sequence("a", ids), len(ids)))
    assert_close(ours["a"], last_logits(reference, ids))


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False, "head_dim": 20}])
def test_qwen3_equals_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    reference = write_toy_qwen3(tmp_path, **changes)
    sequence, runner = make_sequence("a", tokens(90, seed=8)), Runner(load_toy(tmp_path))
    runner.run((sequence, 70))
    assert_close(runner.run((sequence, 20))["a"], last_logits(reference, sequence.prompt_ids))
    sequence.output_ids.append(5)
    assert_close(runner.run((sequence, 1))["a"], last_logits(reference, [*sequence.prompt_ids, 5]))


@torch.inference_mode()
def test_captured_layers_are_the_residual_stream_after_them(
    toy_model: Llama, toy_reference: LlamaForCausalLM
) -> None:
    ids, runner = tokens(40, seed=5), Runner(toy_model, capture=(0, 1))
    logits = runner.run((make_sequence("a", ids), 40))["a"]
    output = toy_reference(torch.tensor([ids]), output_hidden_states=True)
    assert runner.features is not None
    assert_close(runner.features, torch.cat(output.hidden_states[1:3], dim=-1)[0])
    assert_close(logits, output.logits[0, -1])


def test_the_parity_target_has_the_published_features_and_logits() -> None:
    folder = PARITY / "target"
    expected = load_file(folder / "expected.safetensors")
    layers = tuple(json.loads((folder / "expected.json").read_text())["target_layer_ids"])
    runner = Runner(load_toy(folder), capture=layers)
    ids = expected["input_ids"][0].tolist()
    logits = runner.run((make_sequence("a", ids), len(ids)))["a"]
    assert runner.features is not None
    for ours, theirs in (
        (runner.features, expected["context_feature"][0]),
        (logits, expected["logits"][0, -1]),
    ):
        assert (ours - theirs).abs().max() <= 2e-4 * theirs.abs().max()


@torch.inference_mode()
def test_the_last_hidden_state_is_that_after_the_final_norm(
    toy_model: Llama, toy_reference: LlamaForCausalLM
) -> None:
    ids, runner = tokens(40, seed=5), Runner(toy_model, capture=(LAST_HIDDEN,))
    logits = runner.run((make_sequence("a", ids), 40))["a"]
    output = toy_reference(torch.tensor([ids]), output_hidden_states=True)
    assert runner.features is not None
    assert_close(runner.features, output.hidden_states[-1][0])
    assert_close(logits, output.logits[0, -1])
    assert torch.equal(toy_model.head(runner.features[-1:])[0], logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_pass_computes_to_the_last_bit_what_two_do(toy_folder: Path, dtype: torch.dtype) -> None:
    assert_one_pass_equals_two(load_toy(toy_folder, dtype))


def assert_one_pass_equals_two(model: Model) -> None:
    """Layers and the last hidden state captured together, beside each alone; and the logits."""

    def compute(*capture: int) -> tuple[Tensor, dict[str, Tensor]]:
        runner = Runner(model, capture=capture)
        work = [(make_sequence(str(count), tokens(count, seed=count)), count) for count in (40, 7, 1)]
        logits = runner.run(*work)
        assert runner.features is not None
        return runner.features, logits

    both, logits = compute(0, 1, LAST_HIDDEN)
    layers, logits_beside_layers = compute(0, 1)
    last_hidden, logits_beside_last = compute(LAST_HIDDEN)
    assert torch.equal(both, torch.cat([layers, last_hidden], dim=1))
    for name in ("40", "7", "1"):
        assert torch.equal(logits[name], logits_beside_layers[name])
        assert torch.equal(logits[name], logits_beside_last[name])


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_weight_is_the_embedding_only_where_they_are_tied(tmp_path: Path, tied: bool) -> None:
    write_toy_model(tmp_path, tie_word_embeddings=tied)
    model = load_toy(tmp_path)
    assert model.head_weight.shape == model.embedding.shape
    assert (model.head_weight is model.embedding) == tied


@pytest.mark.parametrize(
    "capture", [(1, 1), (1, 0), (2,), (-2,), (0, 3), (LAST_HIDDEN, 0), (LAST_HIDDEN,) * 2]
)
def test_layers_that_cannot_be_captured_are_refused(toy_model: Llama, capture: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="the last of 3 layers cannot be captured"):
        Runner(toy_model, capture=capture).run((make_sequence("a", [1]), 1))


@pytest.mark.skipif(not has_fast_bfloat16(), reason="no bfloat16 instructions")
def test_packed_bfloat16_stays_near_float32(toy_folder: Path, toy_reference: LlamaForCausalLM) -> None:
    ids = tokens(50, seed=2)
    ours = Runner(load_toy(toy_folder, torch.bfloat16)).run((make_sequence("a", ids), len(ids)))["a"]
    theirs = last_logits(toy_reference, ids)
    assert (ours - theirs).square().mean().sqrt() < 0.05 * theirs.std()


def final_states(model: Llama, ids: list[int], widths: tuple[int, ...]) -> Tensor:
    """Of every row, [len(ids), D]: these widths over and over, beside another sequence while a tile holds both."""
    runner = Runner(model, capture=(LAST_HIDDEN,))
    sequence, other = make_sequence("a", ids), make_sequence("b", tokens(len(ids), seed=4))
    states = []
    for width in itertools.cycle(widths):
        count = min(width, sequence.num_pending)
        runner.run((sequence, count), *[(other, count)] * (2 * count <= TILE_ROWS))
        assert runner.features is not None
        states.append(runner.features[:count])
        if not sequence.num_pending:
            return torch.cat(states)
    raise AssertionError("cycles do not end")


@pytest.mark.parametrize(
    "changes", [{}, {"head_dim": 80, "num_attention_heads": 32}, {"intermediate_size": 14336}]
)
def test_no_bit_of_a_bfloat16_row_depends_on_its_pass(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_toy_qwen3(tmp_path, **changes)
    model, ids = load_toy(tmp_path, torch.bfloat16), tokens(150, seed=3)
    whole = final_states(model, ids, (TILE_ROWS,))
    for widths in ((1,), (2, 7, 16, 5, 1, 31), (8,)):
        assert torch.equal(final_states(model, ids, widths), whole)
