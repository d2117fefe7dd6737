"""Sequential Temperature Scaling: finds what distorts confidence, and what it writes is what the engine uses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from engine.drafters.calibration import calibrate, survival
from engine.drafters.dspark import BlockDrafter
from engine.drafters.loading import load_drafter
from engine.drafters.named import load_named
from engine.drafters.temperatures import FILE_NAME, Calibration, read_temperatures
from engine.errors import StartError
from engine.training.__main__ import main
from engine.training.calibrate import GRID, calibration_of, fit, halves, joined, scaled
from engine.training.evaluate import Rounds
from tests.engine.drafters.checkpoints import (
    DEEPSPEC,
    EPS,
    TARGET_SIZES,
    VOCAB,
    block_shapes,
    random_target,
    random_tensors,
    write_checkpoint,
)
from tests.engine.toy import TOY_SETTINGS, load_toy, write_toy_model

NUM_SLOTS = 3


def drawn_rounds(distortion: tuple[float, ...], seed: int, count: int = 20_000) -> Rounds:
    """Rounds whose drafts stand by sigmoid(logits), told as logits times `distortion` of each slot."""
    generator = torch.Generator().manual_seed(seed)
    logits = 0.5 + 1.5 * torch.randn(count, NUM_SLOTS, generator=generator)
    stands = torch.rand(count, NUM_SLOTS, generator=generator) < logits.sigmoid()
    accepted = stands.long().cumprod(dim=1).sum(dim=1)
    return Rounds(
        prompts=torch.arange(count) // 10,
        verified=torch.full((count,), NUM_SLOTS),
        accepted=accepted,
        committed=accepted + 1,
        logits=logits * torch.tensor(distortion),
    )


def slot_errors(rounds: Rounds) -> list[float]:
    slots = calibrate(survival(rounds.logits), rounds.stood, rounds.tested)
    return [slot.calibration_error for slot in slots]


def test_the_temperatures_undo_a_distortion() -> None:
    distortion = (2.0, 0.5, 3.0)
    learnt, held_out = drawn_rounds(distortion, seed=1), drawn_rounds(distortion, seed=2)
    temperatures = fit(learnt, held_out)
    for found, true in zip(temperatures, distortion, strict=True):
        assert true / 1.3 < found < true * 1.3
    after = slot_errors(scaled(held_out, temperatures))
    assert all(new < old / 2 for new, old in zip(after, slot_errors(held_out), strict=True))


def test_no_slot_is_worse_on_held_out_rounds_than_with_1() -> None:
    """Few rounds to learn from, so that some of the choices are noise."""
    kept = 0
    for seed in range(8):
        learnt = drawn_rounds((1.0, 1.0, 1.0), seed=seed, count=60)
        held_out = drawn_rounds((1.0, 1.0, 1.0), seed=100 + seed, count=60)
        temperatures = fit(learnt, held_out)
        for slot in range(NUM_SLOTS):
            before = [*temperatures[:slot], *[1.0] * (NUM_SLOTS - slot)]
            with_it = [*temperatures[: slot + 1], *[1.0] * (NUM_SLOTS - slot - 1)]
            errors = [slot_errors(scaled(held_out, given))[slot] for given in (before, with_it)]
            assert errors[1] <= errors[0]
            kept += temperatures[slot] == 1.0
    assert kept > 0


def test_each_slot_is_fitted_with_those_before_it_in_place() -> None:
    """Else the second would make up for the first, whose confidence is far too sure here."""
    learnt, held_out = drawn_rounds((4.0, 1.0, 1.0), seed=3), drawn_rounds((4.0, 1.0, 1.0), seed=4)
    assert fit(learnt, held_out) == pytest.approx([4.0, 1.0, 1.0], rel=0.3)


def test_a_slot_where_nothing_ever_stood_is_left_alone() -> None:
    learnt, held_out = drawn_rounds((2.0, 2.0, 2.0), seed=5), drawn_rounds((2.0, 2.0, 2.0), seed=6)
    temperatures = fit(learnt.where(learnt.accepted < 3), held_out.where(held_out.accepted < 3))
    assert temperatures[0] != 1.0
    assert temperatures[2] == 1.0


def test_the_grid_is_forty_one_steps_with_1_among_them() -> None:
    assert len(GRID) == 41
    assert GRID[20] == 1.0
    assert (GRID[0], GRID[-1]) == pytest.approx((0.1, 10.0))


def test_a_prompt_is_never_on_both_sides() -> None:
    rounds = joined(
        [drawn_rounds((1.0,) * 3, seed=5, count=200), drawn_rounds((1.0,) * 3, seed=6, count=200)]
    )
    sides = halves(rounds)
    assert sum(map(len, sides)) == 400
    assert set(sides[0].prompts.tolist()).isdisjoint(sides[1].prompts.tolist())


def test_what_is_found_is_told_for_held_out_rounds() -> None:
    learnt, held_out = drawn_rounds((3.0,) * 3, seed=7), drawn_rounds((3.0,) * 3, seed=8)
    found = calibration_of(learnt, held_out, "of the test")
    assert found.num_samples == 40_000
    assert found.ece_before == pytest.approx(sum(slot_errors(held_out)) / 3)
    assert found.ece_after == pytest.approx(sum(slot_errors(scaled(held_out, found.temperatures))) / 3)


def test_too_few_rounds_are_refused() -> None:
    rounds = drawn_rounds((1.0,) * 3, seed=9, count=20)
    with pytest.raises(StartError, match="too few rounds"):
        calibration_of(rounds, rounds.where(rounds.prompts < 0), "none")


def calibrated_checkpoint(folder: Path, temperatures: tuple[float, ...]) -> Path:
    write_checkpoint(folder, DEEPSPEC, random_tensors(block_shapes("vanilla"), seed=1))
    Calibration(temperatures, "of the test", 10, 0.2, 0.1).write(folder)
    return folder


def test_the_engines_drafter_divides_its_logits_by_the_temperatures(tmp_path: Path) -> None:
    temperatures = (2.0, 1.0, 0.5, 4.0, 1.0)
    target = random_target()
    folder = calibrated_checkpoint(tmp_path / "drafter", temperatures)
    with_them = load_drafter(folder, target).drafter
    (folder / FILE_NAME).unlink()
    without = load_drafter(folder, target).drafter
    assert isinstance(with_them, BlockDrafter)
    assert isinstance(without, BlockDrafter)
    hidden, previous = (
        torch.randn(2, 5, target.embedding.shape[1]),
        torch.randn(2, 5, DEEPSPEC["markov_rank"]),
    )
    plain = without.confidence_logits(hidden, previous)
    calibrated = with_them.confidence_logits(hidden, previous)
    assert plain is not None
    assert calibrated is not None
    torch.testing.assert_close(calibrated, plain / torch.tensor(temperatures))


@pytest.mark.parametrize("temperatures", [None, [1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 1, "x"], "all"])
def test_a_wrong_calibration_is_refused(tmp_path: Path, temperatures: object) -> None:
    (tmp_path / FILE_NAME).write_text(json.dumps({"temperatures": temperatures}))
    with pytest.raises(StartError, match="temperatures should be 5 numbers above 0"):
        read_temperatures(tmp_path, 5)


def test_the_command_calibrates_a_drafter_that_then_uses_it(tmp_path: Path) -> None:
    vocab_size = TOY_SETTINGS["vocab_size"]  # that of the toy's byte tokenizer
    target, drafter = tmp_path / "target", tmp_path / "drafter"
    write_toy_model(target, **{**TARGET_SIZES, "vocab_size": vocab_size}, rms_norm_eps=EPS)
    shapes = {
        name: tuple(vocab_size if size == VOCAB else size for size in shape)
        for name, shape in block_shapes("vanilla").items()
    }
    write_checkpoint(drafter, {**DEEPSPEC, "vocab_size": vocab_size}, random_tensors(shapes, seed=1))
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": text, "domain": "chat"}) for text in "abcd"))
    arguments = ["calibrate", "--model", str(target), "--drafter", str(drafter), "--dtype", "float32"]
    arguments += ["--prompts", str(prompts), "--max-tokens", "24", "--device", "cpu"]
    arguments += ["--plot", str(tmp_path / "reliability.svg")]
    assert main(arguments) == 0
    stored = json.loads((drafter / FILE_NAME).read_text())
    assert set(stored) == {"temperatures", "dataset", "num_samples", "ece_before", "ece_after"}
    assert stored["dataset"] == "prompts.jsonl"
    assert stored["ece_after"] <= stored["ece_before"]
    named = load_named(str(drafter), load_toy(target), tmp_path)
    assert named is not None
    assert isinstance(named.drafter, BlockDrafter)
    assert named.drafter.confidence_temperatures is not None
    assert named.drafter.confidence_temperatures.tolist() == pytest.approx(stored["temperatures"])
    again = (drafter / FILE_NAME).read_text()
    assert main(arguments) == 0
    assert (drafter / FILE_NAME).read_text() == again  # the earlier temperatures do not count


def test_a_drafter_without_confidence_is_refused(
    tmp_path: Path, toy_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["calibrate", "--model", str(toy_folder), "--drafter", "lookup", "--dtype", "float32"]
    assert main(arguments) == 2
    assert "only a folder with a confidence head" in capsys.readouterr().err
