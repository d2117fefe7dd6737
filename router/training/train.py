"""Makes the classifier's weights, and says how good they are: `python -m router.training.train`.

In: the material beside this file; `--llmrouter` and `--prompts` add public data sets by path. Out: the weights that
`router/inference.py` loads, and how good they are on the cases held out, which nothing here learns from.
Needs scikit-learn. A linear SVM, one shape against the rest; its margins, scaled on files it did not see, are the
scores; below a threshold chosen on these the shape is `general`.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from random import Random
from zlib import compress, crc32

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_matrix
from sklearn.metrics import confusion_matrix, f1_score, log_loss, precision_recall_fscore_support
from sklearn.svm import LinearSVC

from router.inference import ABSTAINED, WEIGHTS, ShapeModel, features, parsed, written
from router.training import material
from router.training.material import Case

SHAPES = (
    *("extraction", "classification", "summarization", "document_qa", "code_generation"),
    *("support", "reasoning", "short_chat", "general"),
)
SEED = 20_250_601
PENALTY = 8.0  # C of the SVM
COMPOSED_WEIGHT, PUBLIC_WEIGHT = 0.5, 0.1
PUBLIC_MOST = 80  # cases of a family
ABSTAINING_MAY_COST = 0.002  # of macro F1: a guess that is often wrong is no better than `general`
LEAST_CASES = 2  # that have a feature, for it to count
MOST_FEATURES = 80_000  # kept of all, by weight and how often they occur
DRAWS = 4  # fits, of which the mean is taken
LOOKED_AT = "llmrouter"
FOLDS = 4


@dataclass(frozen=True, slots=True)
class Fit:
    """Weights by feature and shape, and a bias by shape."""

    weights: dict[str, np.ndarray]
    bias: np.ndarray


def main(argv: Sequence[str] | None = None) -> None:
    given = _arguments(argv)
    own = {name: material.ours(name, given.material) for name in material.learnt(given.material)}
    public = {"llmrouter": material.llmrouter(given.llmrouter)} if given.llmrouter else {}
    if given.prompts:
        public["prompts"] = material.prompts(given.prompts)
    trainer = Trainer(own, list(chain.from_iterable(public.values())), given.material)
    calibration = trainer.calibrated()
    if given.leave_out:
        left_out(trainer, public, calibration)
    else:
        text = written_out(trainer.fit(), calibration)
        print(f"{given.out.name}: {given.out.write_bytes(compress(text.encode(), 9))} bytes")
        report("held out", parsed(text), material.ours(material.HELD_OUT, given.material))
        if given.prompts:
            report("labelled, never learnt from", parsed(text), material.labelled(given.prompts))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--llmrouter", type=Path, help="LLMRouter's training data (JSON lines)")
    parser.add_argument("--prompts", type=Path, help="a collection of prompts (JSON lines)")
    parser.add_argument(
        "--material", type=Path, default=material.HERE, help="folder of cases, phrases and cues"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / WEIGHTS, help="where to write"
    )
    parser.add_argument("--leave-out", action="store_true", help="only report on each source left out")
    return parser.parse_args(argv)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What margins are multiplied with, and the probability below which the shape is `general`."""

    sharpness: float
    threshold: float


@dataclass(frozen=True, slots=True)
class Trainer:
    """The material: our cases by file, the public ones, and the folder of phrases and cues."""

    own: dict[str, list[Case]]
    public: list[Case]
    folder: Path

    def fit(self) -> Fit:
        """The mean of fits that differ in what was composed and drawn: what is chance in one cancels out."""
        own = list(chain.from_iterable(self.own.values()))
        fits = []
        for draw in range(DRAWS):
            rng = Random(SEED + draw)
            composed = material.composed(own, COMPOSED_WEIGHT, rng, self.folder)
            public = material.sampled(self.public, PUBLIC_MOST, PUBLIC_WEIGHT, rng)
            fits.append(fit([*own, *composed, *public]))
        return mean(fits)

    def without(self, files: Collection[str] = (), families: Collection[str] = ()) -> Trainer:
        own = {name: cases for name, cases in self.own.items() if name not in files}
        return Trainer(own, [case for case in self.public if case.family not in families], self.folder)

    def calibrated(self) -> Calibration:
        """From files that a fit did not see, so that a probability holds for calls as another app sends them."""
        scores, truth = [], []
        names = list(self.own)
        for fold in range(min(FOLDS, len(names))):
            unseen = names[fold::FOLDS]
            model = parsed(written_out(self.without(files=unseen).fit(), Calibration(1.0, 0.0)))
            for case in chain.from_iterable(self.own[name] for name in unseen):
                scores.append(model.scores(case.text, case.system))
                truth.append(SHAPES.index(case.shape))
        return calibration(np.array(scores), truth)


def calibration(scores: np.ndarray, truth: list[int]) -> Calibration:
    sharpness = minimize_scalar(
        lambda it: log_loss(truth, _softmax(scores * it), labels=range(len(SHAPES))),
        bounds=(0.2, 20.0),
        method="bounded",
    ).x
    likely = _softmax(scores * sharpness)
    f1 = {float(it): _f1_above(it, likely, truth) for it in np.arange(0.16, 0.6, 0.02)}
    threshold = max(it for it in f1 if f1[it] >= max(f1.values()) - ABSTAINING_MAY_COST)
    print(f"sharpness {sharpness:.3f}, threshold {threshold:.2f}, F1 on files left out", end=" ")
    print(f"{_f1_above(0.0, likely, truth):.3f}, with abstention {_f1_above(threshold, likely, truth):.3f}")
    return Calibration(float(sharpness), threshold)


def left_out(trainer: Trainer, public: dict[str, list[Case]], calibration: Calibration) -> None:
    """How well each public source is told by a fit that saw nothing of it, nor of sets cut from the same originals."""
    for name, cases in public.items():
        rest = trainer.without(families={case.family for case in cases})
        model = parsed(written_out(rest.fit(), calibration))
        report(name, model, cases)
        if name == LOOKED_AT:
            report(f"{name}, the half not looked at", model, [it for it in cases if not was_looked_at(it)])


def was_looked_at(case: Case) -> bool:
    """Of `LOOKED_AT`: whether this call was in the half whose errors led to cases of our own."""
    return crc32(case.text.encode()) % 2 == 0


def fit(cases: Sequence[Case]) -> Fit:
    """One linear SVM a shape, by features that occur twice; the lightest weights are left out."""
    found = [features(case.text, case.system) for case in cases]
    counts = Counter(feature for one in found for feature in one)
    names = sorted(name for name, count in counts.items() if count >= LEAST_CASES)
    index = {name: at for at, name in enumerate(names)}
    svm = LinearSVC(C=PENALTY, max_iter=400, tol=1e-2, random_state=0)
    svm.fit(
        _matrix(found, index),
        [SHAPES.index(case.shape) for case in cases],
        sample_weight=[case.weight for case in cases],
    )
    weights = svm.coef_ * [trust(name) for name in names]
    worth = np.abs(weights).max(axis=0) * np.array([counts[name] for name in names]) ** 0.25
    kept = np.argsort(-worth, kind="stable")[:MOST_FEATURES]
    return Fit({names[at]: weights[:, at] for at in kept}, svm.intercept_)


def mean(fits: Sequence[Fit]) -> Fit:
    """Where one has no weight for a feature, its weight is nought."""
    weights: dict[str, np.ndarray] = {}
    for one in fits:
        for name, row in one.weights.items():
            weights[name] = weights.get(name, 0.0) + row / len(fits)
    kept = sorted(weights, key=lambda name: -np.abs(weights[name]).max())[:MOST_FEATURES]
    return Fit({name: weights[name] for name in kept}, np.mean([one.bias for one in fits], axis=0))


def trust(feature: str) -> float:
    """How freely a feature may be used: what stands in the midst of a text is mostly material, its form is not."""
    return {"b:": 0.4, "<": 2.0}.get("<" if feature[0] == "<" else feature[:2], 1.0)


def _matrix(found: Sequence[set[str]], index: dict[str, int]) -> csr_matrix:
    """A row a case: 1 / sqrt(features of the case) for each that is known, times how far it is trusted."""
    trusted = [trust(name) for name in index]
    ends, columns, values = [0], [], []
    for one in found:
        known = [index[feature] for feature in sorted(one) if feature in index]
        columns += known
        values += [len(one) ** -0.5 * trusted[at] for at in known]
        ends.append(len(columns))
    return csr_matrix((values, columns, ends), shape=(len(found), len(index)))


def written_out(found: Fit, calibration: Calibration) -> str:
    """The text of a weights file."""
    weights = {name: list(row * calibration.sharpness) for name, row in found.weights.items()}
    return written(SHAPES, list(found.bias * calibration.sharpness), calibration.threshold, weights)


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _f1_above(threshold: float, likely: np.ndarray, truth: list[int]) -> float:
    said = np.where(likely.max(axis=1) >= threshold, likely.argmax(axis=1), SHAPES.index(ABSTAINED))
    return float(f1_score(truth, said, average="macro"))


def report(title: str, model: ShapeModel, cases: Sequence[Case]) -> None:
    """Precision, recall and F1 by shape, macro F1 over the shapes that occur, and who is taken for whom.

    A call abstained from counts as `general`. `answered` is the share of right ones among the others.
    """
    inferred = [model.infer(case.text, case.system) for case in cases]
    truth, said = [case.shape for case in cases], [one.shape for one in inferred]
    present = [shape for shape in SHAPES if shape in truth]
    figures = precision_recall_fscore_support(truth, said, labels=present, zero_division=0)
    sure = [
        it.shape == case.shape
        for it, case in zip(inferred, cases, strict=True)
        if it.confidence >= model.threshold
    ]
    abstained = 1 - len(sure) / len(cases)
    print(f"\n{title}: {len(cases)} cases, macro F1 {np.mean(figures[2]):.3f}", end=", ")
    print(
        f"right {np.mean(np.array(truth) == said):.3f}, abstained {abstained:.1%}, answered {np.mean(sure):.3f}"
    )
    for shape, *row in zip(present, *figures, strict=True):
        print(f"  {shape:16} precision {row[0]:.3f}  recall {row[1]:.3f}  F1 {row[2]:.3f}  of {row[3]}")
    print(confusion_matrix(truth, said, labels=SHAPES))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
