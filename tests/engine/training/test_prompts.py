"""Prompts: our own and those of a file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from engine.errors import StartError
from engine.training.code_prompts import MOST, code_prompts
from engine.training.prompts import EVALUATION_PROMPTS, Prompt, read_prompts


def test_our_own_for_evaluation_are_fifteen_of_each_domain() -> None:
    prompts = read_prompts(EVALUATION_PROMPTS)
    assert Counter(prompt.domain for prompt in prompts) == {"code": 15, "math": 15, "chat": 15}
    assert len({prompt.text for prompt in prompts}) == 45


def test_our_own_for_copying_are_of_code_and_text() -> None:
    prompts = read_prompts(EVALUATION_PROMPTS.with_name("copying_prompts.jsonl"))
    assert Counter(prompt.domain for prompt in prompts) == {"code": 7, "chat": 5}


def test_code_prompts_differ_and_fewer_are_the_first_of_more() -> None:
    many = code_prompts(3000)
    assert len({prompt.text for prompt in many}) == 3000
    assert code_prompts(100) == many[:100]
    assert {prompt.domain for prompt in many} == {"code"}


def test_every_part_of_every_code_prompt_is_filled_in() -> None:
    for prompt in code_prompts(5000):
        for part in (
            "does",
            "name",
            "language",
            "wanted",
            "code",
            "trouble",
            "stub",
            "condition",
            "f",
            "x",
            "n",
        ):
            assert f"{{{part}}}" not in prompt.text
        assert prompt.text == prompt.text.strip()


def test_another_seed_gives_other_prompts() -> None:
    assert code_prompts(50, seed=1) != code_prompts(50, seed=2)


def test_no_code_prompt_is_one_that_is_held_out() -> None:
    held_out = {prompt.text for prompt in read_prompts(EVALUATION_PROMPTS)}
    assert held_out.isdisjoint(prompt.text for prompt in code_prompts(8000))


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(StartError, match="40001 prompts"):
        code_prompts(MOST + 1)


def test_a_file_is_read_in_order_and_other_keys_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        '{"prompt": "one\\u2028two", "domain": "chat", "source": "x"}\n'
        '{"prompt": "a\u2028b", "domain": "math"}\n',
        encoding="utf-8",
    )
    assert read_prompts(path) == [Prompt("one\u2028two", "chat"), Prompt("a\u2028b", "math")]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "is expected"),
        ("[]", "is expected"),
        ('{"prompt": "x"}', "is expected"),
        ('{"prompt": " ", "domain": "chat"}', "not empty"),
        ('{"prompt": 3, "domain": "chat"}', "should be text"),
        ('{"prompt": "x", "domain": "sport"}', "'sport', none of math, code, chat"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "x", "domain": "chat"}\n' + line + '\n{"prompt": "x", "domain": "chat"}\n')
    with pytest.raises(StartError, match=told) as refused:
        read_prompts(path)
    assert str(refused.value).startswith(f"{path}:2: ")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be read"):
        read_prompts(tmp_path / "none.jsonl")
