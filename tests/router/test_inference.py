"""The shipped classifier of task shapes: how often it is right, when it abstains, that its work is bounded."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.inference import features, parsed, shipped, written
from router.query import Query
from router.shapes import SHAPES, find_shape

CASES = Path(__file__).resolve().parents[2] / "router" / "training" / "cases"
LEAST_MACRO_F1 = 0.87  # on calls nobody learnt from


def test_macro_f1_on_the_cases_held_out() -> None:
    right, said, meant = Counter[str](), Counter[str](), Counter[str]()
    with (CASES / "held_out.jsonl").open(encoding="utf-8") as lines:
        for case in map(json.loads, lines):
            shape = shipped().infer(case["text"], case["system"] or "").shape
            said[shape] += 1
            meant[case["shape"]] += 1
            right[shape] += shape == case["shape"]
    by_shape = [2 * right[shape] / (said[shape] + meant[shape]) for shape in meant]
    assert sum(by_shape) / len(by_shape) >= LEAST_MACRO_F1


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("Write a Python function that parses ISO dates, with unit tests.", "code_generation"),
        ("Where is my order? It should have arrived last week and I want a refund.", "support"),
        ("Prove that there are infinitely many primes, step by step.", "reasoning"),
        ("hi, how are you?", "short_chat"),
        ("Write a poem about the sea in winter.", "general"),
        ("Schreibe ein Gedicht über den Herbst.", "general"),
        ("Mon colis n'est pas arrivé, je veux être remboursé.", "support"),
    ],
)
def test_plain_requests(text: str, shape: str) -> None:
    assert shipped().infer(text).shape == shape


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_no_text_has_no_shape(text: str) -> None:
    inferred = shipped().infer(text, "You are a helpful assistant.")
    assert (inferred.shape, inferred.confidence) == ("general", 0.0)


@pytest.mark.parametrize("text", ["qzxv wkjq pfff zzgh", "....", "4711", "🙂🙃🙂", "ωξψ ζχφθ ξξψζ"])
@pytest.mark.parametrize("system", ["", "qqzz vvkj"])
def test_what_has_no_word_ever_met_has_no_shape(text: str, system: str) -> None:
    inferred = shipped().infer(text, system)
    assert (inferred.shape, inferred.confidence) == ("general", 0.0)


def test_below_its_threshold_the_model_abstains() -> None:
    model = parsed(written(("support", "reasoning"), [0.0, 0.0], 0.6, {"order": [2.0, -2.0]}))
    assert model.infer("order").shape == "support"
    torn = parsed(
        written(("support", "reasoning"), [0.0, 0.0], 0.6, {"order": [2.0, 0.0], "sum": [0.0, 2.0]})
    )
    unsure = torn.infer("order sum")
    assert (unsure.shape, unsure.confidence) == ("general", 0.5)


def test_what_is_written_is_read_again() -> None:
    weights = {"order": [1.0, -0.5], "a pair": [0.25, 0.75]}
    model = parsed(written(("support", "reasoning"), [0.5, -0.5], 0.3, weights))
    scale = len(features("order")) ** -0.5
    assert model.scores("order") == pytest.approx([0.5 + scale, -0.5 - scale / 2], abs=0.02)


def test_another_format_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="begin with 'other'"):
        parsed("other\tx\n")


def test_a_long_text_is_read_in_pieces_only() -> None:
    text = " ".join(f"word{number}" for number in range(150_000))
    assert len(text) > 1_000_000
    assert len(features(text, text)) < 600
    assert len(features("字" * 1_000_000)) < 600


def test_the_middle_of_a_long_text_does_not_count_but_its_ends_do() -> None:
    filler = "the meeting went on until noon. " * 60
    asked = f"{filler}\n{filler}\n"
    assert features(asked + "Summarize it.") != features(asked + "Translate it.")
    assert features(f"{asked}zebra {asked}") == features(f"{asked}giraffe {asked}")


@given(st.text(max_size=3_000), st.text(max_size=500))
def test_any_text_gets_a_shape_and_always_the_same(text: str, system: str) -> None:
    inferred = shipped().infer(text, system)
    assert inferred.shape in SHAPES
    assert 0.0 <= inferred.confidence <= 1.0
    assert shipped().infer(text, system) == inferred


def test_text_is_asked_only_where_nothing_else_tells_the_shape() -> None:
    asked: list[str] = []

    def infer() -> object:
        asked.append("text")
        return shipped().infer("Prove that there are infinitely many primes, step by step.")

    plain = Query("/v1/chat/completions", "auto", infer_shape=infer)  # type: ignore[arg-type]
    tools = Query("/v1/chat/completions", "auto", infer_shape=infer, has_tools=True)  # type: ignore[arg-type]
    assert find_shape(tools, None, ()).source == "structural"
    assert find_shape(tools, "support", ()).source == "declared"
    assert asked == []
    found = find_shape(plain, None, ())
    assert (found.shape, found.source, asked) == ("reasoning", "inferred", ["text"])
    assert found.confidence is not None
    assert found.confidence > shipped().threshold
