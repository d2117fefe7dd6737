"""Evaluation: the rounds are those that follow from the answers, and the figures are the specification's."""

from __future__ import annotations

import json
from collections.abc import Sequence as Ordered
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from engine.drafters.lookup import PromptLookup
from engine.drafters.named import Named
from engine.errors import StartError
from engine.model import Llama
from engine.sequence import Sampling
from engine.tokenizer import ModelTokenizer
from engine.training.__main__ import main
from engine.training.evaluate import EvalSettings, Evaluation, Pace, Rounds, evaluate, spread
from engine.training.prompts import Prompt
from engine.training.report import figures, reliability, table
from tests.engine.toy import make_engine, make_sequence, run_all

PROMPTS = [
    *(Prompt(text, "chat") for text in ("ababababab", "hello hello hello", "x")),
    *(Prompt(text, "math") for text in ("1 2 3 1 2 3 1", "99999999999")),
]


@pytest.fixture(scope="module")
def tokenizer(toy_folder: Path) -> ModelTokenizer:
    return ModelTokenizer(toy_folder)


def rounds_of(
    prompt_ids: list[int], answer: list[int], most: int, ends: frozenset[int]
) -> list[tuple[int, ...]]:
    """(verified, accepted, committed) of each round that leads to `answer`, looked up by hand."""
    done = 1
    found: list[tuple[int, ...]] = []
    while done < len(answer):
        drafted = PromptLookup().match([*prompt_ids, *answer[:done]]).token_ids[: most - done - 1]
        stop = next((at + 1 for at, token in enumerate(drafted) if token in ends), len(drafted))
        drafted, rest = drafted[:stop], answer[done:]
        same = [a == b for a, b in zip(drafted, rest, strict=False)]
        accepted = (*same, False).index(False)
        if accepted == len(rest):  # the answer ends with an accepted draft
            found.append((accepted, accepted, accepted))
        else:
            found.append((len(drafted), accepted, accepted + 1))
        done += found[-1][2]
    return found


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rounds_are_those_that_lead_to_the_answers(
    toy_model: Llama, tokenizer: ModelTokenizer, temperature: float
) -> None:
    settings = EvalSettings(temperature, max_tokens=40, streams=2, seed=3)
    found = evaluate(settings, toy_model, tokenizer, PROMPTS, Named("lookup", PromptLookup()))
    num_accepted = 0
    for number, prompt in enumerate(PROMPTS):
        plain = make_sequence(
            "plain",
            tokenizer.encode_chat([{"role": "user", "content": prompt.text}]),
            settings.max_tokens,
            sampling=Sampling(temperature=temperature, seed=3 + number),
            end_ids=toy_model.config.eos_ids | tokenizer.end_ids,
        )
        run_all(make_engine(toy_model), [plain])
        expected = rounds_of(plain.prompt_ids, plain.output_ids, settings.max_tokens, plain.end_ids)
        rounds = found.rounds.where(found.rounds.prompts == number)
        counts = torch.stack([rounds.verified, rounds.accepted, rounds.committed], dim=1)
        assert [tuple(row) for row in counts.tolist()] == expected
        assert rounds.has_confidence
        num_accepted += int(rounds.accepted.sum())
    assert num_accepted > 0 or temperature > 0
    assert found.plain is not None
    for paces in (found.drafted, found.plain):
        assert {domain: pace.num_tokens > 0 for domain, pace in paces.items()} == {"chat": True, "math": True}
    assert [pace.num_tokens for pace in found.drafted.values()] == [
        pace.num_tokens for pace in found.plain.values()
    ]


def test_fewer_prompts_are_spread_over_those_of_each_domain() -> None:
    prompts = [Prompt(str(at), "code" if at % 5 == 4 else "chat") for at in range(15)]
    assert [prompt.text for prompt in spread(prompts, 4)] == ["0", "3", "4", "7", "9", "11", "14"]
    assert spread(prompts, 12) == prompts


def test_a_prompt_that_does_not_fit_is_refused(toy_model: Llama, tokenizer: ModelTokenizer) -> None:
    with pytest.raises(StartError, match=r"'xxxxx.*' has \d+ tokens"):
        evaluate(
            EvalSettings(), toy_model, tokenizer, [Prompt("x" * 600, "chat")], Named("lookup", PromptLookup())
        )


def test_a_drafter_that_fails_is_told(toy_model: Llama, tokenizer: ModelTokenizer) -> None:
    class Broken(PromptLookup):
        def match(self, history: Ordered[int]) -> object:  # type: ignore[override]
            raise RuntimeError("oh")

    with pytest.raises(StartError, match="the drafter failed"):
        evaluate(EvalSettings(), toy_model, tokenizer, PROMPTS, Named("broken", Broken()))


def some_rounds() -> Rounds:
    """Five rounds of three slots; the third had a short proposal, the last none."""
    return Rounds(
        prompts=torch.tensor([0, 0, 0, 1, 1]),
        verified=torch.tensor([3, 3, 1, 3, 0]),
        accepted=torch.tensor([2, 0, 1, 3, 0]),
        committed=torch.tensor([3, 1, 2, 4, 1]),
        logits=torch.zeros(5, 3),
    )


def test_figures_are_those_of_the_specification() -> None:
    rounds = some_rounds()
    assert rounds.accepted_length == 11 / 5
    assert rounds.verify_rate == 11 / (10 + 5)
    assert rounds.survival == [3 / 4, 2 / 3, 1 / 3]
    assert rounds.conditional == [3 / 4, 2 / 2, 1 / 2]


def test_slots_that_nobody_tested_have_no_figure() -> None:
    rounds = some_rounds().where(torch.tensor([False, False, True, False, True]))
    assert rounds.survival == [1.0, None, None]
    assert rounds.conditional == [1.0, None, None]


def test_domains_count_the_same_in_the_mean() -> None:
    paces = {"chat": Pace(30, 2.0), "math": Pace(10, 1.0)}
    plain = {"chat": Pace(30, 3.0), "math": Pace(10, 1.0)}
    prompts = [Prompt("a", "chat"), Prompt("b", "math")]
    found = figures(Evaluation(some_rounds(), paces, plain), prompts)
    assert found["domains"]["chat"]["accepted_length"] == 2.0
    assert found["domains"]["math"]["accepted_length"] == 2.5
    assert found["mean"]["accepted_length"] == 2.25
    assert found["domains"]["chat"]["speedup"] == 1.5
    assert found["mean"]["speedup"] == 1.25
    assert found["mean"]["survival"][2] == pytest.approx((0 + 1) / 2)
    lines = table(found).splitlines()
    assert [line.split()[:2] for line in lines[1::2]][:3] == [
        ["chat", "2.00"],
        ["math", "2.50"],
        ["mean", "2.25"],
    ]


def test_reliability_is_by_bins() -> None:
    predicted = torch.tensor([0.11, 0.13, 0.9, 0.5], dtype=torch.float64)
    survived = torch.tensor([True, False, True, True])
    points = reliability(predicted, survived, torch.tensor([True, True, True, False]))
    assert [point for pair in points for point in pair] == pytest.approx([0.12, 0.5, 0.9, 1.0])


@pytest.mark.parametrize("options", [[], ["--no-plain"]])
def test_the_command_writes_figures_and_a_picture(
    tmp_path: Path, toy_folder: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"prompt": prompt.text, "domain": prompt.domain}) for prompt in PROMPTS]
    prompts.write_text("\n".join(lines))
    arguments = ["eval", "--model", str(toy_folder), "--drafter", "lookup", "--dtype", "float32"]
    arguments += ["--prompts", str(prompts), "--max-tokens", "20", "--device", "cpu"]
    arguments += ["--json", str(tmp_path / "figures.json"), "--plot", str(tmp_path / "slots.svg")]
    assert main(arguments + options) == 0
    found = json.loads((tmp_path / "figures.json").read_text())
    assert (found["mean"]["plain_tokens_per_s"] is None) == ("--no-plain" in options)
    assert capsys.readouterr().out.strip() == table(found)
    assert found["temperature"] == 0.0
    assert found["domains"]["chat"]["answers"] == 3
    picture = ElementTree.parse(tmp_path / "slots.svg")
    assert len(picture.findall(".//{*}polyline")) == 2


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [("--plot", "slots.png", "ends in .svg"), ("--json", "nowhere/x.json", "folder is missing")],
)
def test_a_file_that_could_not_be_written_is_refused_at_once(
    capsys: pytest.CaptureFixture[str], option: str, value: str, told: str
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["eval", "--drafter", "lookup", option, value])
    assert left.value.code == 2
    assert told in capsys.readouterr().err
