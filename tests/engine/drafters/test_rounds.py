"""Whole answers of a small Llama: the drafter must not show, neither in tokens nor in a seed's answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.checkpoint import read_config, read_weights
from engine.drafters.base import Drafter
from engine.drafters.loading import TargetParts, load_drafter
from engine.drafters.lookup import PromptLookup
from engine.model import Llama
from engine.sequence import Sampling
from tests.engine.drafters.checkpoints import (
    DEEPSPEC,
    EAGLE3,
    EPS,
    NUM_TARGET_LAYERS,
    TARGET_SIZES,
    VOCAB,
    block_shapes,
    eagle3_shapes,
    random_tensors,
    write_checkpoint,
)
from tests.engine.drafters.rounds import Rounds, Run
from tests.engine.toy import write_toy_model

KINDS = ["dflash", "vanilla", "gated", "rnn", "eagle3", "lookup"]
PLAIN = PromptLookup(num_slots=1, longest=0)  # finds nothing: every round is a plain step
ANSWER = 40


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Llama:
    folder = tmp_path_factory.mktemp("models") / "small"
    write_toy_model(
        folder,
        **TARGET_SIZES,
        rms_norm_eps=EPS,
        eos_token_id=None,
        pad_token_id=None,
    )
    return Llama(read_config(folder), read_weights(folder), torch.float32, torch.device("cpu"))


def make_drafter(folder: Path, kind: str, target: Llama) -> Drafter:
    if kind == "lookup":
        return PromptLookup(num_slots=4)
    if kind == "eagle3":
        config, shapes = EAGLE3, eagle3_shapes()
    else:
        head = None if kind == "dflash" else kind
        changes = (
            {"markov_rank": 0, "enable_confidence_head": False}
            if head is None
            else {"markov_head_type": head}
        )
        config, shapes = DEEPSPEC | changes, block_shapes(head, confidence=head is not None)
    parts = TargetParts(NUM_TARGET_LAYERS, target.embedding, target.embedding, target.head)
    tensors = random_tensors(shapes, 31)
    del tensors["embed_tokens.weight"], tensors["lm_head.weight"]  # the target's
    return load_drafter(write_checkpoint(folder, config, tensors), parts, threshold=0.3).drafter


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    lengths = (1, 5, 16, 17, 40)
    return [torch.randint(0, VOCAB, (length,), generator=generator).tolist() for length in lengths]


def answers(runs: list[Run]) -> list[list[int]]:
    return [run.output_ids for run in runs]


@pytest.mark.parametrize("chunk", [1000, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_answers_are_those_of_plain_decoding(
    tmp_path: Path, kind: str, chunk: int, target: Llama
) -> None:
    plain = Rounds(target, PLAIN).generate(prompts(), ANSWER)
    assert all(run.accepted_lengths == [0] * ANSWER for run in plain)
    drafted = Rounds(target, make_drafter(tmp_path, kind, target)).generate(prompts(), ANSWER, chunk=chunk)
    assert answers(drafted) == answers(plain)
    assert sum(len(run.accepted_lengths) for run in drafted) <= sum(
        len(run.accepted_lengths) for run in plain
    )


def test_lookup_takes_fewer_rounds_on_an_answer_that_loops(target: Llama) -> None:
    (run,) = Rounds(target, PromptLookup(num_slots=4)).generate([[3, 3, 3]], 120)
    assert len(run.accepted_lengths) < 100
    assert sum(run.committed_lengths) + 1 >= 120


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_answer_alone_and_in_a_batch(tmp_path: Path, kind: str, target: Llama) -> None:
    drafter = make_drafter(tmp_path, kind, target)
    samplings = [
        Sampling(temperature=1.0, seed=1),
        Sampling(temperature=0.7, seed=2, top_p=0.9, presence_penalty=0.5),
        Sampling(temperature=0.0),
        Sampling(temperature=1.5, seed=3, top_k=8, repetition_penalty=1.3),
        Sampling(temperature=1.0, seed=4),
    ]
    together = answers(Rounds(target, drafter).generate(prompts(), 20, samplings=samplings))
    for prompt, sampling, expected in zip(prompts(), samplings, together, strict=True):
        alone = Rounds(target, drafter).generate([prompt], 20, samplings=[sampling], chunk=3)
        assert answers(alone) == [expected]
