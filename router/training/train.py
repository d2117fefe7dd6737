"""Makes the classifier's weights, and says how good they are: `python -m router.training.train`.

In: the material beside this file; `--llmrouter` and `--prompts` add public data sets by path. Out: the weights that
`router/inference.py` loads, their recipe, and F1 by shape on the cases held out, which nothing here learns from.
Needs scikit-learn. A linear SVM, one shape against the rest; its margins, scaled on cases it did not see
(cross-validation), are the scores; below a threshold chosen on these the shape is `general`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from random import Random
from zlib import compress

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_matrix
from sklearn.metrics import confusion_matrix, f1_score, log_loss
from sklearn.svm import LinearSVC

from router.inference import ABSTAINED, WEIGHTS, ShapeModel, features, parsed, written
from router.training import material
from router.training.material import Case

SHAPES = (
    *("extraction", "classification", "summarization", "document_qa", "code_generation"),
    *("support", "reasoning", "short_chat", "general"),
)
SEED = 20_250_601
PENALTY = 4.0  # C of the SVM
COMPOSED_WEIGHT, PUBLIC_WEIGHT = 0.3, 0.1
PUBLIC_MOST = 80  # cases of a family
ABSTAINING_MAY_COST = 0.002  # of macro F1: a guess that is often wrong is no better than `general`
LEAST_CASES = 2  # that have a feature, for it to count
MOST_FEATURES = 44_000  # kept of all, by weight and how often they occur
FOLDS = 3
NEIGHBOURS = 12  # lines of a file that may share their material: they go into one fold


@dataclass(frozen=True, slots=True)
class Fit:
    """Weights by feature and shape, and a bias by shape."""

    weights: dict[str, np.ndarray]
    bias: np.ndarray


def main() -> None:
    given = _arguments()
    rng = Random(SEED)
    own = [case for name in material.LEARNT for case in material.ours(name)]
    sources = {"llmrouter": material.llmrouter(given.llmrouter) if given.llmrouter else []}
    sources["prompts"] = material.prompts(given.prompts) if given.prompts else []
    public = [case for cases in sources.values() for case in cases]
    if given.leave_out:
        for name, cases in sources.items():
            rest = [case for case in public if case.family not in {it.family for it in cases}]
            for label, learnt in (("ours alone", []), ("ours and the other source's families", rest)):
                model = _model(_fit(_learnable(own, learnt, Random(SEED))), 1.0, 0.0)
                report(f"{name}, learnt from {label}", model, cases)
        return
    text = _calibrated(own, public, rng)
    size = (Path(__file__).parents[1] / WEIGHTS).write_bytes(compress(text.encode(), 9))
    print(f"{WEIGHTS}: {size} bytes")
    report("held out", parsed(text), material.ours(material.HELD_OUT))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--llmrouter", type=Path, help="LLMRouter's training data (JSON lines)")
    parser.add_argument("--prompts", type=Path, help="a collection of prompts (JSON lines)")
    parser.add_argument("--leave-out", action="store_true", help="only report F1 on each source left out")
    return parser.parse_args()


def _learnable(own: Sequence[Case], public: Sequence[Case], rng: Random) -> list[Case]:
    return [
        *own,
        *material.composed(own, COMPOSED_WEIGHT, rng),
        *material.sampled(public, PUBLIC_MOST, PUBLIC_WEIGHT, rng),
    ]


def _fit(cases: Sequence[Case]) -> Fit:
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
    weights = svm.coef_ * [_trust(name) for name in names]
    worth = np.abs(weights).max(axis=0) * np.array([counts[name] for name in names]) ** 0.25
    kept = np.argsort(-worth, kind="stable")[:MOST_FEATURES]
    return Fit({names[at]: weights[:, at] for at in kept}, svm.intercept_)


def _trust(feature: str) -> float:
    """How freely a feature may be used: what stands in the midst of a text is mostly material, its form is not."""
    return {"b:": 0.4, "<": 2.0}.get("<" if feature[0] == "<" else feature[:2], 1.0)


def _matrix(found: Sequence[set[str]], index: dict[str, int]) -> csr_matrix:
    """A row a case: 1 / sqrt(features of the case) for each that is known, times how far it is trusted."""
    trust = [_trust(name) for name in index]
    ends, columns, values = [0], [], []
    for one in found:
        known = [index[feature] for feature in sorted(one) if feature in index]
        columns += known
        values += [len(one) ** -0.5 * trust[at] for at in known]
        ends.append(len(columns))
    return csr_matrix((values, columns, ends), shape=(len(found), len(index)))


def _model(fit: Fit, sharpness: float, threshold: float) -> ShapeModel:
    return parsed(_text(fit, sharpness, threshold))


def _text(fit: Fit, sharpness: float, threshold: float) -> str:
    weights = {name: list(row * sharpness) for name, row in fit.weights.items()}
    return written(SHAPES, list(fit.bias * sharpness), threshold, weights)


def _calibrated(own: list[Case], public: list[Case], rng: Random) -> str:
    """Sharpness and threshold from cases that the model did not see; then a fit to all."""
    groups = [own[at : at + NEIGHBOURS] for at in range(0, len(own), NEIGHBOURS)]
    rng.shuffle(groups)
    scores, truth = [], []
    for fold in range(FOLDS):
        unseen = list(chain.from_iterable(groups[fold::FOLDS]))
        rest = [case for at, group in enumerate(groups) if at % FOLDS != fold for case in group]
        model = _model(_fit(_learnable(rest, public, rng)), 1.0, 0.0)
        scores += [model.scores(case.text, case.system) for case in unseen]
        truth += [SHAPES.index(case.shape) for case in unseen]
    unscaled = np.array(scores)
    sharpness = minimize_scalar(
        lambda it: log_loss(truth, _softmax(unscaled * it), labels=range(len(SHAPES))),
        bounds=(0.2, 20.0),
        method="bounded",
    ).x
    likely = _softmax(unscaled * sharpness)
    f1 = {float(it): _f1_above(it, likely, truth) for it in np.arange(0.2, 0.6, 0.02)}
    threshold = max(it for it in f1 if f1[it] >= max(f1.values()) - ABSTAINING_MAY_COST)
    print(f"sharpness {sharpness:.3f}, threshold {threshold:.2f}, cross-validated F1", end=" ")
    print(f"{_f1_above(0.0, likely, truth):.3f}, with abstention {_f1_above(threshold, likely, truth):.3f}")
    return _text(_fit(_learnable(own, public, rng)), float(sharpness), threshold)


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _f1_above(threshold: float, likely: np.ndarray, truth: list[int]) -> float:
    said = np.where(likely.max(axis=1) >= threshold, likely.argmax(axis=1), SHAPES.index(ABSTAINED))
    return float(f1_score(truth, said, average="macro"))


def report(title: str, model: ShapeModel, cases: Sequence[Case]) -> None:
    """F1 by shape, macro F1 over the shapes that occur, the share abstained from, and who is taken for whom."""
    inferred = [model.infer(case.text, case.system) for case in cases]
    truth = [case.shape for case in cases]
    said = [one.shape for one in inferred]
    present = [shape for shape in SHAPES if shape in truth]
    by_shape = f1_score(truth, said, labels=present, average=None, zero_division=0)
    abstained = sum(one.confidence < model.threshold for one in inferred) / len(cases)
    figures = dict(zip(present, (round(float(f1), 3) for f1 in by_shape), strict=True))
    print(f"\n{title}: {len(cases)} cases, macro F1 {np.mean(by_shape):.3f}, abstained {abstained:.1%}")
    print(json.dumps(figures))
    print(confusion_matrix(truth, said, labels=SHAPES))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
