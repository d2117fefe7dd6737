"""Whole runs on a toy target: what is written is served as it was trained, and stopping changes no bit."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.checkpoint import read_weights
from engine.drafters.base import Proposal
from engine.drafters.batches import Anchor, Span, context_rows, draft_batch
from engine.drafters.context import DraftCache
from engine.drafters.fingerprint import KEY, fingerprint
from engine.drafters.loading import Loaded, TargetParts, load_drafter
from engine.drafters.settings import read_settings
from engine.drafters.temperatures import Calibration, read_temperatures
from engine.errors import StartError
from engine.kv_cache import num_blocks_for
from engine.training.answers import Answers, Conversation
from engine.training.modules import Batch
from engine.training.recipe import TrainSettings
from engine.training.train import Place, Run, schedule, train
from tests.engine.toy import write_toy_model

ROOT = Path(__file__).parents[3]
VOCAB, PROMPT_LEN, LENGTH = 264, 5, 24
ALONE = Place(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("target")
    write_toy_model(folder)
    return folder


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers that count upwards, so that there is something to learn."""
    noise = np.random.default_rng(8)
    made = [
        Conversation(
            token_ids=[
                *noise.integers(60, 90, PROMPT_LEN).tolist(),
                *range(first, first + LENGTH - PROMPT_LEN),
            ],
            prompt_len=PROMPT_LEN,
            temperature=float(at % 2),
            domain=at % 3,
            prompt_row=at,
        )
        for at, first in enumerate(noise.integers(2, 30, 24).tolist())
    ]
    path = tmp_path_factory.mktemp("answers") / "answers.npz"
    Answers.of(made).save(path)
    return path


@pytest.fixture
def settings(toy: Path, answers: Path, tmp_path: Path) -> TrainSettings:
    return TrainSettings(
        model=toy,
        answers=(answers,),
        out=tmp_path / "run",
        target_layer_ids=(0, 1),
        block_size=4,
        markov_rank=6,
        draft_vocab_size=48,
        blocks=200,
        sequences_per_step=3,
        anchors_per_sequence=6,
        held_out_per_domain=1,
        log_every_steps=2,
        device="cpu",
        dtype="float32",
    )


def state(settings: TrainSettings) -> dict[str, Any]:
    stored: dict[str, Any] = torch.load(settings.out / "state.pt", weights_only=True)
    return stored


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", ["dspark", "dflash", "eagle3", "mtp"])
def test_the_loss_falls(settings: TrainSettings, kind: Any) -> None:
    train(replace(settings, kind=kind, blocks=1200, learning_rate=3e-3))
    losses = [float(row["loss"]) for row in rows(settings.out / "log.csv")]
    assert sum(losses[-4:]) < 0.95 * sum(losses[:4])


def test_a_dspark_learns_to_draft_what_it_never_saw(settings: TrainSettings) -> None:
    train(replace(settings, cross_entropy=1.0, total_variation=0.0, blocks=3000, learning_rate=3e-3))
    assert float(rows(settings.out / "held_out.csv")[-1]["mean"]) > 1.5


def test_a_run_that_stopped_at_every_step_ends_in_the_same_bits(settings: TrainSettings) -> None:
    train(settings)
    other = replace(settings, out=settings.out.with_name("in_parts"), features=settings.out / "features")
    whole = state(settings)
    train(replace(other, for_s=0.0))
    for _ in range(whole["steps"] - 1):
        assert state(other)["blocks"] < settings.blocks
        train(replace(other, for_s=0.0, resume=True))
    parts = state(other)
    assert parts["blocks"] == whole["blocks"]
    assert all(torch.equal(parts["net"][name], tensor) for name, tensor in whole["net"].items())
    for at, values in whole["optimizer"]["state"].items():
        assert all(
            torch.equal(parts["optimizer"]["state"][at][name], value) for name, value in values.items()
        )
    drafters = [(one.out / "drafter" / "model.safetensors").read_bytes() for one in (settings, other)]
    assert drafters[0] == drafters[1]


def test_a_run_is_neither_overwritten_nor_continued_with_other_settings(settings: TrainSettings) -> None:
    with pytest.raises(StartError, match=r"no .*state\.pt to resume"):
        train(replace(settings, resume=True))
    train(replace(settings, for_s=0.0))
    with pytest.raises(StartError, match="--resume"):
        train(settings)
    with pytest.raises(StartError, match="learning_rate"):
        train(replace(settings, resume=True, learning_rate=1.0))


def test_what_was_written_names_its_target_and_loses_the_calibration_of_other_weights(
    settings: TrainSettings,
) -> None:
    train(replace(settings, for_s=0.0))
    folder = settings.out / "drafter"
    Calibration((2.0,) * 4, "prompts.jsonl", 10, 0.2, 0.1).write(folder)
    assert read_temperatures(folder, 4) == (2.0,) * 4
    train(replace(settings, for_s=0.0, resume=True))
    assert read_temperatures(folder, 4) is None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config[KEY] == fingerprint(read_weights(settings.model)["model.embed_tokens.weight"])


@pytest.mark.parametrize("draft_vocab_size", [48, 0])
@pytest.mark.parametrize("kind", ["dspark", "dflash", "eagle3", "mtp"])
def test_what_was_written_drafts_as_it_was_trained(
    settings: TrainSettings, kind: Any, draft_vocab_size: int
) -> None:
    settings = replace(settings, kind=kind, draft_vocab_size=draft_vocab_size)
    train(settings)
    run = Run(replace(settings, resume=True), ALONE)
    net = run.objective.net
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(parameter.bfloat16())  # as stored
    batch = run.batches.of([int(run.held_out[0])], None)
    served = load_drafter(settings.out / "drafter", parts_of(run))
    assert served.unused == ()
    assert read_settings(settings.out / "drafter").draft_vocab_size == (draft_vocab_size or None)
    for place in (0, 7, len(batch.anchors) - net.num_slots):
        proposal = propose(served, batch, int(batch.anchors[place]))
        drafts = proposal.token_ids[0]
        only = replace(
            batch,
            anchors=batch.anchors[place : place + 1],
            labels=drafts.unsqueeze(0),
            counts=batch.counts[place : place + 1],
            spans=(replace(batch.spans[0], anchors=slice(0, 1)),),
        )
        with torch.no_grad():
            drafted = net(only)
            scores = run.objective(only, run.objective.divisor(only))
        assert bool((scores.hits[0] == only.counts[0]).all())
        if drafted.confidence is not None and proposal.confidence_logits is not None:
            torch.testing.assert_close(
                drafted.confidence, proposal.confidence_logits[0], rtol=1e-4, atol=1e-4
            )
        assert (drafted.confidence is None) == (kind != "dspark")


def parts_of(run: Run) -> TargetParts:
    target = run.target
    return TargetParts(
        target.config.num_layers,
        target.embedding,
        target.head_weight,
        target.head,
        target.config.max_positions,
    )


def propose(loaded: Loaded, batch: Batch, anchor: int) -> Proposal:
    """What the served drafter says after the tokens up to `anchor`."""
    drafter, token_ids = loaded.drafter, batch.token_ids.tolist()
    blocks = list(range(num_blocks_for(len(token_ids))))
    cache = DraftCache(drafter.context, len(blocks), torch.float32, torch.device("cpu"))
    features: Tensor = batch.last_hidden if drafter.reads_last_hidden else batch.features
    drafter.extend(context_rows([Span(token_ids[:anchor], 0, blocks)], features[:anchor]), cache)
    at = Anchor(token_ids[: anchor + 1], blocks, temperature=0.0, seed=1, num_generated=1)
    return drafter.propose(draft_batch([at], drafter.num_slots, torch.device("cpu")), cache)


@pytest.mark.parametrize("kind", ["dspark", "dflash", "eagle3", "mtp"])
def test_a_run_begins_with_the_weights_and_tokens_of_another_drafter(
    settings: TrainSettings, answers: Path, kind: Any
) -> None:
    """Its own answers have other tokens. What it began with need not be there when it goes on."""
    before = replace(settings, kind=kind, for_s=0.0)
    train(before)
    other = Answers.load([answers])
    path = settings.out.with_name("other.npz")
    replace(other, tokens=other.tokens + 100).save(path)
    folder = before.out / "drafter"
    after = replace(before, answers=(path,), out=settings.out.with_name("after"), start_from=folder)
    run = Run(after, ALONE)
    assert run.vocabulary is not None
    assert torch.equal(run.vocabulary, state(before)["vocabulary"])
    for name, tensor in state(before)["net"].items():
        assert torch.equal(run.objective.net.state_dict()[name], tensor.bfloat16().float())
    assert not run.optimizer.state
    train(after)
    assert state(after)["settings"]["start_from"] == str(folder)
    folder.rename(folder.with_name("moved"))
    train(replace(after, resume=True))
    assert state(after)["steps"] == 2
    assert torch.equal(state(after)["vocabulary"], run.vocabulary)
    with pytest.raises(StartError, match="start_from"):
        train(replace(after, resume=True, start_from=None))


def test_a_drafter_of_another_kind_or_size_is_no_start(settings: TrainSettings) -> None:
    train(replace(settings, for_s=0.0))
    folder = settings.out / "drafter"
    after = replace(settings, out=settings.out.with_name("after"), start_from=folder)
    for change, told in (
        ({"kind": "eagle3"}, "kind is dspark, this run's eagle3"),
        ({"kind": "dflash"}, "markov_rank is 6, this run's 0"),
        ({"layers": 1}, "num_layers is 2, this run's 1"),
        ({"block_size": 3}, "num_slots is 4, this run's 3"),
        ({"target_layer_ids": (1,)}, r"target_layer_ids is \(0, 1\), this run's \(1,\)"),
        ({"draft_vocab_size": 0}, "draft_vocab_size is 48, this run's None"),
        ({"start_from": settings.model}, "architectures"),
        ({"start_from": settings.out}, "not a drafter's folder"),
    ):
        with pytest.raises(StartError, match=told):
            train(replace(after, **change))
    tensors = read_weights(folder)
    del tensors["norm.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(StartError, match=r"cannot start from .*norm\.weight"):
        train(after)


def test_two_processes_take_the_steps_of_one(settings: TrainSettings, toy: Path, answers: Path) -> None:
    """Each learns from half of a step's conversations; all their anchors, so that nothing is drawn."""
    single = replace(settings, blocks=100, sequences_per_step=4, anchors_per_sequence=100)
    train(single)
    out = settings.out.with_name("two")
    shared = {"model": toy, "answers": answers, "out": out, "sequences_per_step": 2}
    same = (
        "block_size",
        "markov_rank",
        "draft_vocab_size",
        "blocks",
        "anchors_per_sequence",
        "held_out_per_domain",
    )
    shared |= {name: getattr(single, name) for name in same}
    options = [part for name, value in shared.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "engine.training.train", "--dtype", "float32", "--device", "cpu"]
    subprocess.run(
        [sys.executable, *command, "--target-layer-ids", "0,1", *options],
        check=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    one, two = state(single), state(replace(single, out=out))
    assert (two["steps"], two["blocks"]) == (one["steps"], one["blocks"])
    for name, tensor in one["net"].items():
        torch.testing.assert_close(two["net"][name], tensor, rtol=1e-3, atol=1e-4)


def test_the_learning_rate_rises_then_falls_to_nothing() -> None:
    rates = [schedule(at / 100, 0.04) for at in range(101)]
    assert rates.index(max(rates)) == 4
    assert rates[:5] == sorted(rates[:5])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[0] > 0.0
    assert rates[-1] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"target_layer_ids": (0, 2)}, "target_layer_ids"),
        ({"target_layer_ids": (1, -1)}, "target_layer_ids"),
        ({"layers": 4}, "layers"),
        ({"mask_token_id": VOCAB}, "mask_token_id"),
    ],
)
def test_what_does_not_fit_the_target_is_refused(settings: TrainSettings, change: Any, told: str) -> None:
    with pytest.raises(StartError, match=told):
        train(replace(settings, **change))
