"""The comparison: real runs of the command on a toy target, and what is said of them, worked out by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from engine.drafters.lookup import PromptLookup
from engine.drafters.named import Named
from engine.model import Llama
from engine.tokenizer import ModelTokenizer
from engine.training.__main__ import main
from engine.training.answers import Answers, Conversation
from engine.training.evaluate import EvalSettings, evaluate
from engine.training.prompts import Prompt
from engine.training.report import comparison_rows, comparison_table, conditional_panels

PROMPTS = [Prompt("ababababab", "chat"), Prompt("1 2 3 1 2 3 1", "math"), Prompt("x", "chat")]
BLOCKS, TRIAL_BLOCKS = 120, 60
RATES = ("1e-06", "0.003")
RECIPE = """
target_layer_ids: [0, 1]
block_size: 3
markov_rank: 6
sequences_per_step: 4
anchors_per_sequence: 6
held_out_per_domain: 1
device: cpu
dtype: float32
threads: 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers, prompts and a recipe."""
    folder = tmp_path_factory.mktemp("comparison")
    made = [
        Conversation([*b"what is it", 65 + at, *range(first, first + 16)], 11, float(at % 2), at % 3, at)
        for at, first in enumerate(np.random.default_rng(8).integers(2, 30, 24).tolist())
    ]
    Answers.of(made).save(folder / "answers.npz")
    lines = [json.dumps({"prompt": one.text, "domain": one.domain}) for one in PROMPTS]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def compare(folder: Path, toy: Path, *options: str) -> int:
    given = {"model": toy, "recipe": folder / "recipe.yaml", "answers": folder / "answers.npz"}
    given |= {"prompts": folder / "prompts.jsonl", "out": folder / "out"}
    argv = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    argv += ["--blocks", str(BLOCKS), "--trial-blocks", str(TRIAL_BLOCKS), "--max-tokens", "24"]
    return main(["compare", *argv, "--prompts-per-domain", "1", *options])


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def compared(folder: Path, toy_folder: Path) -> Path:
    """The report of DSpark, with trials of two learning rates, beside lookup."""
    assert compare(folder, toy_folder, "--kinds", "dspark,lookup", "--learning-rates", ",".join(RATES)) == 0
    return folder / "out"


def test_each_learning_rate_has_a_trial_and_the_best_one_a_run(compared: Path) -> None:
    trials = {rate: read(compared / f"dspark_{rate}_{TRIAL_BLOCKS}" / "held_out.csv")[-1] for rate in RATES}
    told = json.loads((compared / "comparison.json").read_text())["drafters"]["dspark"]
    assert told["trials"] == {rate: float(row["mean"]) for rate, row in trials.items()}
    assert f"{told['learning_rate']:g}" == max(told["trials"], key=told["trials"].get)
    (run,) = compared.glob(f"dspark_*_{BLOCKS}")
    assert run.name == f"dspark_{told['learning_rate']:g}_{BLOCKS}"
    assert told["blocks"] == int(read(run / "held_out.csv")[-1]["blocks"]) >= BLOCKS
    assert told["megabytes"] == (run / "drafter" / "model.safetensors").stat().st_size / 1e6


def test_the_report_has_every_drafter_temperature_and_domain(
    compared: Path, toy_model: Llama, toy_folder: Path
) -> None:
    rows = read(compared / "comparison.csv")
    assert [(row["drafter"], row["temperature"], row["domain"]) for row in rows] == [
        (drafter, temperature, domain)
        for drafter in ("dspark", "lookup")
        for temperature in ("0", "1")
        for domain in ("chat", "math", "mean")
    ]
    found = evaluate(
        EvalSettings(max_tokens=24),
        toy_model,
        ModelTokenizer(toy_folder),
        PROMPTS[:2],
        Named("lookup", PromptLookup(3)),
        with_plain=False,
    )
    by_domain = [found.rounds.where(found.rounds.prompts == at).accepted_length for at in range(2)]
    lookup = [float(row["accepted_length"]) for row in rows[6:9]]
    assert lookup == pytest.approx([*by_domain, sum(by_domain) / 2])
    for temperature in (0, 1):
        picture = ElementTree.parse(compared / f"slots_t{temperature}.svg")
        assert len(picture.findall("{*}g")) == 3


def test_what_is_done_stays_and_what_was_stopped_goes_on(
    compared: Path, folder: Path, toy_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["train", "--recipe", str(compared / "recipe.yaml"), "--kind", "mtp", "--learning-rate", "0.003"]
    run += ["--blocks", str(BLOCKS), "--features", str(compared / "features"), "--for", "0s"]
    assert main([*run, "--out", str(compared / f"mtp_0.003_{BLOCKS}")]) == 0
    before = {path: path.stat().st_mtime_ns for path in compared.glob("*/*") if "mtp" not in str(path)}
    options = ("--kinds", "dspark,mtp,lookup", "--learning-rates", "0.003")
    assert compare(folder, toy_folder, *options) == 0
    done = {path for path in before if path.parent.name != "features"}
    assert any(path.name == "lookup_t1.json" for path in done)
    assert {path: path.stat().st_mtime_ns for path in done} == {path: before[path] for path in done}
    stopped, *_, last = read(compared / f"mtp_0.003_{BLOCKS}" / "held_out.csv")
    assert 0 < int(stopped["blocks"]) < BLOCKS <= int(last["blocks"])
    drafters = json.loads((compared / "comparison.json").read_text())["drafters"]
    assert {name: one["slots"] for name, one in drafters.items()} == {
        **{"dspark": 3, "mtp": 1, "mtp x3": 3, "lookup": 3}
    }
    shares = [drafters[name]["temperatures"]["0"]["mean"]["conditional"] for name in ("mtp", "mtp x3")]
    assert [len(one) for one in shares] == [1, 3]
    tables = capsys.readouterr().out.split("accepted length at temperature ")[1:]
    assert [table.splitlines()[0] for table in tables] == ["0", "1"]
    assert [line[:6].strip() for line in tables[0].splitlines()[2:]] == ["dspark", "mtp", "mtp x3", "lookup"]


@pytest.mark.parametrize(
    ("recipe", "options", "told"),
    [
        (RECIPE + "layers: 1", (), "they differ in layers: 1; layers: 2"),
        (RECIPE, ("--processes", "2"), "they differ in # Of every run"),
        (RECIPE.replace("domain: 1", "domain: 0"), (), "held_out_per_domain is 0"),
        (RECIPE, ("--learning-rates", "3", "--answers", "missing.npz", "--out", "OUT"), "exit code 2"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    compared: Path,
    folder: Path,
    tmp_path: Path,
    toy_folder: Path,
    capsys: pytest.CaptureFixture[str],
    recipe: str,
    options: tuple[str, ...],
    told: str,
) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe)
    given = [str(tmp_path / "out") if one == "OUT" else one for one in options]
    assert compare(folder, toy_folder, "--recipe", str(tmp_path / "recipe.yaml"), *given) == 2
    assert told in capsys.readouterr().err


def test_an_unknown_kind_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        compare(folder, folder, "--kinds", "dspark,medusa")
    assert left.value.code == 2
    assert "'medusa' is none of dspark" in capsys.readouterr().err


def drafter(chat: list[float | None], math: list[float | None], lengths: tuple[float, float]) -> Any:
    """An entry of comparison.json, with conditional acceptance and accepted length by domain."""
    mean = [0.5 * ((a or 0.0) + (b or 0.0)) for a, b in zip(chat, math, strict=True)]
    domains = {
        name: {"conditional": shares, "accepted_length": length}
        for name, shares, length in zip(("chat", "math"), (chat, math), lengths, strict=True)
    }
    return {
        **{"kind": "any", "slots": len(chat), "learning_rate": 6e-4, "blocks": 1_000_448, "megabytes": 24.25},
        "temperatures": {
            "0": {
                "domains": domains,
                "mean": {"conditional": mean, "accepted_length": sum(lengths) / 2},
            }
        },
    }


def test_ratios_are_dsparks_accepted_length_over_the_others() -> None:
    drafters = {
        "dspark": drafter([0.8, 0.7], [0.9, 0.8], (2.0, 3.0)),
        "mtp": drafter([0.6], [0.7], (1.6, 1.5)),
    }
    rows = comparison_rows(drafters)
    ratios = [row["dspark_ratio"] for row in rows]
    assert ratios == pytest.approx([1.0, 1.0, 1.0, 1.25, 2.0, 2.5 / 1.55])
    assert [row.get("conditional_2") for row in rows] == pytest.approx([0.7, 0.8, 0.75, None, None, None])
    head, first, second = (line.split() for line in comparison_table(rows).splitlines())
    assert head == ["drafter", "slots", "rate", "blocks", "MB", "chat", "math", "mean", "dspark/it"]
    assert first == ["dspark", "2", "0.0006", "1000448", "24.2", "2.00", "3.00", "2.50", "1.00"]
    assert second == ["mtp", "1", "0.0006", "1000448", "24.2", "1.60", "1.50", "1.55", "1.61"]
    alone = comparison_rows({"mtp": drafters["mtp"]})
    assert {row["dspark_ratio"] for row in alone} == {None}


def test_the_picture_has_a_panel_a_domain_and_a_line_a_drafter() -> None:
    drafters = {
        name: one["temperatures"]["0"]
        for name, one in {
            "dspark": drafter([0.8, 0.7], [0.9, None], (2.0, 3.0)),
            "mtp": drafter([0.6], [0.7], (1.6, 1.5)),
        }.items()
    }
    chat, math, mean = conditional_panels(drafters)
    assert (chat.title, math.title, mean.title) == ("chat", "math", "mean")
    assert chat.lines == {"dspark": [(1.0, 0.8), (2.0, 0.7)], "mtp": [(1.0, 0.6)]}
    assert math.lines["dspark"] == [(1.0, 0.9)]
    assert (chat.least_x, chat.most_x) == (1.0, 2.0)
