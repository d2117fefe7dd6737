"""What the classifier of task shapes learns from: its labels, no call twice, nothing of what it is judged on."""

from __future__ import annotations

import json
import string
from collections import Counter
from functools import cache
from itertools import chain
from pathlib import Path
from random import Random

import pytest

from router.training import material
from router.training.material import Case
from tests.router.training.public import LLMROUTER, PROMPTS, needs_public_data

SHAPES = set(material.LETTERS.values())
RUN = 8  # words in a row that two texts have in common only where one is taken from the other


@cache
def learnt() -> list[Case]:
    return [case for name in material.learnt() for case in material.ours(name)]


def runs(text: str) -> set[tuple[str, ...]]:
    found = [word for piece in text.lower().split() if (word := piece.strip(string.punctuation))]
    return {tuple(found[at : at + RUN]) for at in range(len(found) - RUN + 1)}


def runs_of(cases: list[Case]) -> set[tuple[str, ...]]:
    return set(chain.from_iterable(runs(case.text) | runs(case.system) for case in cases))


@pytest.mark.parametrize("name", [*material.learnt(), material.HELD_OUT])
def test_each_case_has_a_known_shape_a_language_and_a_text(name: str) -> None:
    for case in material.ours(name):
        assert case.shape in SHAPES
        assert case.language.isalpha()
        assert len(case.language) == 2
        assert case.text.strip()
        assert case.family == ""


def test_every_shape_is_learnt_in_many_languages_and_held_out_as_often_as_the_others() -> None:
    for shape in SHAPES:
        assert len({case.language for case in learnt() if case.shape == shape}) >= 15
    assert set(Counter(case.shape for case in material.ours(material.HELD_OUT)).values()) == {50}


def test_no_call_is_there_twice() -> None:
    cases = [*learnt(), *material.ours(material.HELD_OUT)]
    counts = Counter((case.text.strip().lower(), case.system.strip().lower()) for case in cases)
    assert [call for call, count in counts.items() if count > 1] == []


def test_nothing_held_out_is_learnt_from() -> None:
    held_out = runs_of(material.ours(material.HELD_OUT))
    composed = material.composed(learnt(), 1.0, Random(0))
    assert held_out & runs_of([*learnt(), *composed]) == set()


@needs_public_data
def test_no_text_of_the_public_sets_is_among_ours() -> None:
    ours = runs_of(
        [*learnt(), *material.ours(material.HELD_OUT), *material.composed(learnt(), 1.0, Random(0))]
    )
    for path, text in ((LLMROUTER, "query"), (PROMPTS, "prompt")):
        with path.open(encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                assert runs(row[text]) & ours == set()


@needs_public_data
def test_the_calls_we_labelled_have_all_shapes_but_support() -> None:
    assert {case.shape for case in material.labelled(PROMPTS)} == SHAPES - {"support"}


def test_labels_are_for_the_collection_they_were_made_for(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps({"source": "self-instruct-seed", "prompt": "Only one."}) + "\n")
    with pytest.raises(ValueError, match="argument 2 is longer"):
        material.labelled(path)


def test_a_public_set_is_read_by_its_own_names_without_house_style_and_doubles(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    rows = [
        {"source": "gsm8k-train", "prompt": "How many?\nPlease reason step by step."},
        {"source": "gsm8k-train", "prompt": "How many?"},
        {"source": "clinc150-train", "prompt": "tell me a joke"},
        {"source": "clinc150-train", "prompt": "what is my bank balance"},
        {"source": "of no shape", "prompt": "Hm."},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [(case.shape, case.text, case.family) for case in material.prompts(path)]
    assert found == [("reasoning", "How many?", "gsm8k"), ("short_chat", "tell me a joke", "clinc150")]


def test_of_each_family_at_most_so_many_are_drawn() -> None:
    cases = [Case("reasoning", str(number), family=family) for family in "ab" for number in range(9)]
    drawn = material.sampled(cases, 4, 0.5, Random(0))
    assert Counter(case.family for case in drawn) == {"a": 4, "b": 4}
    assert {case.weight for case in drawn} == {0.5}
