"""Files of answers: what is written is read again, several are one, and a wrong one is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import StartError
from engine.training.answers import Answers, Conversation, joined, read_notes

FIRST = Conversation((1, 5, 9, 2), prompt_len=2, temperature=0.0, domain=1, prompt_row=7)
SECOND = Conversation((1, 60_000, 3), prompt_len=1, temperature=0.7, domain=2, prompt_row=8)


def arrays_of(answers: Answers) -> dict[str, Any]:
    return {name: getattr(answers, name) for name in Answers.__slots__}


def assert_same(one: Answers, other: Answers) -> None:
    for name, expected in arrays_of(other).items():
        found = getattr(one, name)
        assert (found is None) == (expected is None)
        if expected is not None:
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


def test_conversations_lie_end_to_end() -> None:
    answers = Answers.of([FIRST, SECOND])
    assert [tokens.tolist() for tokens in answers] == [[1, 5, 9, 2], [1, 60_000, 3]]
    assert (len(answers), answers.num_answer_tokens) == (2, 4)
    assert answers.tokens.dtype == np.uint16
    assert answers.offsets.tolist() == [0, 4, 7]


def test_what_is_saved_is_loaded_with_its_notes(tmp_path: Path) -> None:
    path = tmp_path / "answers.npz"
    answers = Answers.of([FIRST, SECOND])
    answers.save(path, recipe="as told", num_jobs=3)
    assert_same(Answers.load([path]), answers)
    assert read_notes(path) == {"recipe": "as told", "num_jobs": 3}
    assert list(tmp_path.iterdir()) == [path]


def test_several_files_are_one(tmp_path: Path) -> None:
    paths = [tmp_path / "one.npz", tmp_path / "two.npz"]
    for path, one in zip(paths, (FIRST, SECOND), strict=True):
        Answers.of([one]).save(path)
    assert_same(Answers.load(paths), Answers.of([FIRST, SECOND]))


def test_rows_of_prompts_are_kept_only_where_all_have_one() -> None:
    one, other = Answers.of([FIRST]), Answers.of([SECOND])
    bare = Answers(**{**arrays_of(other), "prompt_row": None})
    assert joined([one, bare]).prompt_row is None


def test_no_conversations_are_answers_too(tmp_path: Path) -> None:
    Answers.of([]).save(tmp_path / "none.npz")
    empty = Answers.load([tmp_path / "none.npz"])
    assert (len(empty), empty.num_answer_tokens) == (0, 0)
    assert_same(joined([empty, Answers.of([FIRST])]), Answers.of([FIRST]))


def test_a_large_vocabulary_is_kept() -> None:
    large = Conversation((1, 150_000), prompt_len=1, temperature=1.0, domain=0, prompt_row=0)
    assert [tokens.tolist() for tokens in Answers.of([large])] == [[1, 150_000]]
    assert [tokens.tolist() for tokens in joined([Answers.of([FIRST]), Answers.of([large])])][1] == [
        1,
        150_000,
    ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tokens": None}, "lacks tokens"),
        ({"tokens": np.zeros(7, np.int64)}, "tokens are int64"),
        ({"offsets": np.array([0, 4, 7], np.int32)}, "offsets is int32"),
        ({"offsets": np.array([0, 7])}, "2 offsets for 2 conversations"),
        ({"offsets": np.array([0, 4, 9])}, "offsets go from 0 to 9"),
        ({"offsets": np.array([0, 6, 7])}, "conversation 1 has 1 tokens"),
        ({"prompt_len": np.array([4, 1], np.int32)}, "conversation 0 has 4 tokens, 4 of them prompt"),
        ({"prompt_len": np.array([0, 1], np.int32)}, "conversation 0 has 4 tokens, 0 of them prompt"),
        ({"domain": np.array([0, 3], np.uint8)}, "domain 3 is none of math, code, chat"),
        ({"domain": np.array([0], np.uint8)}, "1 values of domain"),
        ({"temperature": np.array([0, np.nan], np.float32)}, "temperature"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    path = tmp_path / "answers.npz"
    arrays = {**arrays_of(Answers.of([FIRST, SECOND])), **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(StartError, match=told) as refused:
        Answers.load([path])
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04 cut off"])
def test_what_is_no_npz_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "answers.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StartError, match=r"answers\.npz"):
        Answers.load([path])


def test_a_lone_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(StartError, match="is not an"):
        Answers.load([path])
