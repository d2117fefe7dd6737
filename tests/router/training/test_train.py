"""The training script: what it writes is what scikit-learn fitted, and how good the shipped weights are."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from zlib import decompress

import numpy as np
import pytest

from router.inference import Inferred, features, parsed, shipped
from router.training import material
from router.training.material import Case
from tests.router.training.public import LLMROUTER, PROMPTS, needs_public_data

pytest.importorskip("sklearn", reason="the training script needs scikit-learn")

from sklearn.feature_extraction import DictVectorizer
from sklearn.svm import LinearSVC

from router.training import train

ASKING = {
    "extraction": "List the {} in this note as JSON",
    "classification": "Is this {} good or bad? One word",
    "summarization": "Sum up the {} in one line",
    "document_qa": "According to the text, where is the {}?",
    "code_generation": "Write a function that sorts a {}",
    "support": "My {} never arrived, I want a refund",
    "reasoning": "Prove that each {} has a smallest divisor",
    "short_chat": "hi, nice {}",
    "general": "Write a long poem about a {}",
}
MATERIAL = "It stood there all winter, and nobody asked what it was for. " * 3
THINGS = ("kettle", "ladder", "number", "letter", "garden", "violin")
LEAST_LLMROUTER, LEAST_PROMPTS, LEAST_LABELLED = 0.95, 0.92, 0.61  # a little below what the docs say


def tiny(things: tuple[str, ...]) -> list[Case]:
    return [Case(shape, asked.format(it)) for it in things for shape, asked in ASKING.items()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Material as the script's own, but tiny: two files to learn from, one held out, a phrase and some cues."""
    (tmp_path / "cases").mkdir()
    (tmp_path / "phrases").mkdir()
    for name, things in (("one", THINGS[:3]), ("two", THINGS[3:5]), (material.HELD_OUT, THINGS[5:])):
        with (tmp_path / "cases" / f"{name}.jsonl").open("w") as lines:
            for case in tiny(things):
                row = {
                    "shape": case.shape,
                    "language": "en",
                    "system": None,
                    "text": f"{case.text}\n{MATERIAL}",
                }
                lines.write(json.dumps(row) + "\n")
    (tmp_path / "phrases" / "en.txt").write_text(
        "[reasoning]\nSolve it step by step.\n[system:any]\nBe kind.\n"
    )
    (tmp_path / "cues.tsv").write_text("en\tsupport\trefund|parcel\n")
    return tmp_path


def test_the_script_writes_weights_that_tell_the_shapes_of_calls_it_did_not_see(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "weights"
    train.main(["--material", str(folder), "--out", str(out)])
    model = parsed(decompress(out.read_bytes()).decode())
    unseen = material.ours(material.HELD_OUT, folder)
    assert [model.infer(case.text).shape for case in unseen] == [case.shape for case in unseen]
    assert "held out: 9 cases, macro F1 1.000" in capsys.readouterr().out


def test_a_source_left_out_is_told_by_our_cases_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"task_name": "math", "query": f"Prove that each {it} has a smallest divisor, case {number}."}
        for number in range(4)
        for it in THINGS
    ]
    path = folder / "llmrouter.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train.main(["--material", str(folder), "--llmrouter", str(path), "--leave-out"])
    written = capsys.readouterr().out
    half = sum(not train.was_looked_at(case) for case in material.llmrouter(path))
    assert 0 < half < len(rows)
    assert f"llmrouter: {len(rows)} cases, macro F1 1.000" in written
    assert f"the half not looked at: {half} cases, macro F1 1.000" in written


def test_the_weights_give_the_scores_that_a_pipeline_of_scikit_learn_gives() -> None:
    learnt, unseen = tiny(THINGS[:5]), tiny(THINGS[5:])
    learnt += [
        Case("support", "refund!", "You work at a shop.", weight=0.3),
        Case("general", "字体字体", weight=0.3),
    ]
    counts = Counter(name for case in learnt for name in features(case.text, case.system))

    def row(case: Case) -> dict[str, float]:
        found = features(case.text, case.system)
        kept = [name for name in found if counts[name] >= train.LEAST_CASES]
        return {name: train.trust(name) / len(found) ** 0.5 for name in kept}

    vectors = DictVectorizer()
    svm = LinearSVC(C=train.PENALTY, max_iter=400, tol=1e-2, random_state=0)
    svm.fit(
        vectors.fit_transform(map(row, learnt)),
        [train.SHAPES.index(case.shape) for case in learnt],
        sample_weight=[case.weight for case in learnt],
    )
    expected = svm.decision_function(vectors.transform(map(row, unseen))) * 2.0
    model = parsed(train.written_out(train.fit(learnt), train.Calibration(2.0, 0.3)))
    found = [model.scores(case.text, case.system) for case in unseen]
    rounding = [model.step / 2 * len(features(case.text, case.system)) ** 0.5 for case in unseen]
    assert model.threshold == 0.3
    assert (np.abs(np.array(found) - expected) <= np.array(rounding)[:, None] + 1e-4).all()
    assert np.abs(expected).max() > 5 * max(rounding)


def test_confidence_is_calibrated_where_scores_are_too_sharp() -> None:
    """Right three times of four, always by the same margin: that is a probability of three quarters."""
    scores = np.full((400, len(train.SHAPES)), -50.0)
    truth = [at % 2 for at in range(400)]
    for at, right in enumerate(truth):
        scores[at, right if at % 8 < 6 else 1 - right] = 1.0
        scores[at, 1 - right if at % 8 < 6 else right] = 0.0
    sharpness = train.calibration(scores, truth).sharpness
    assert 1 / (1 + np.exp(-sharpness)) == pytest.approx(0.75, abs=0.01)


def macro_f1(cases: list[Case]) -> float:
    """Of the shipped weights, over the shapes that occur."""
    said: list[Inferred] = [shipped().infer(case.text, case.system) for case in cases]
    pairs = Counter((case.shape, one.shape) for case, one in zip(cases, said, strict=True))
    means, says = Counter[str](), Counter[str]()
    for (meant, told), count in pairs.items():
        means[meant] += count
        says[told] += count
    return float(np.mean([2 * pairs[it, it] / (means[it] + says[it]) for it in means]))


@needs_public_data
def test_the_shipped_weights_are_as_good_on_public_calls_as_the_docs_say() -> None:
    assert macro_f1(material.llmrouter(LLMROUTER)) >= LEAST_LLMROUTER
    assert macro_f1(material.prompts(PROMPTS)) >= LEAST_PROMPTS
    assert macro_f1(material.labelled(PROMPTS)) >= LEAST_LABELLED
