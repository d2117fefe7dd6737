"""Prompts of `bench models` from JSONL, and what their checks say of answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.bench.checks import code_in, passes
from gateway.bench.prompts import Check, PromptsRefused, fingerprint, load

LEAP = "def is_leap(y):\n    return y % 4 == 0 and (y % 100 != 0 or y % 400 == 0)\n"


def written(folder: Path, *lines: Any) -> Path:
    file = folder / "prompts.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return file


def test_the_bundled_prompts_can_be_passed() -> None:
    good = {
        "fact": "1969",
        "label": "complaint",
        "fields": '{"name": "Mr. Okafor", "city": "Lisbon", "nights": 4}',
        "sum": "7 x 12 = 84, and 84 - 59 = 25",
        "code": f"```python\n{LEAP}```",
    }
    checked = {prompt.name: prompt.check for prompt in load() if prompt.check is not None}
    assert set(checked) == set(good)
    for name, check in checked.items():
        assert passes(check, good[name]), name
        assert not passes(check, "I would rather not say."), name


def test_lines_become_prompts(tmp_path: Path) -> None:
    first, second = load(
        written(
            tmp_path,
            {"prompt": "Hi"},
            "",
            {
                "name": "two",
                "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
                "max_tokens": 7,
                "response_format": {"type": "json_object"},
                "check": {"regex": "^u$"},
            },
        )
    )
    assert (first.name, first.messages, first.check) == ("line 1", ({"role": "user", "content": "Hi"},), None)
    assert (second.name, second.max_tokens, second.check) == ("two", 7, Check("regex", "^u$"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"promt": "Hi"}, "promt: Extra inputs"),
        ({"prompt": "Hi", "messages": [{}]}, "either prompt or messages"),
        ({"prompt": "Hi", "max_tokens": 0}, "max_tokens: "),
        ({"prompt": "Hi", "check": {}}, "check: give exactly one of"),
        ({"prompt": "Hi", "check": {"exact": "a", "regex": "a"}}, "check: give exactly one of"),
        ({"prompt": "Hi", "check": {"regex": "("}}, "check: regex: "),
        ({"prompt": "Hi", "check": {"json_schema": {"type": "nothing"}}}, "check: json_schema: "),
        ({"prompt": "Hi", "check": {"unit_test": "assert ("}}, "check: unit_test is not Python"),
        ("[1]", "Input should be"),
        ("{", "no JSON"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, line: Any, message: str) -> None:
    file = written(tmp_path, {"prompt": "good"}, line)
    with pytest.raises(PromptsRefused) as refused:
        load(file)
    assert str(refused.value).startswith(f"{file}:2: ")
    assert message in str(refused.value)


def test_two_prompts_of_one_name_an_empty_file_and_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptsRefused, match="several prompts are called 'a'"):
        load(written(tmp_path, {"name": "a", "prompt": "1"}, {"name": "a", "prompt": "2"}))
    with pytest.raises(PromptsRefused, match="no prompt in it"):
        load(written(tmp_path, ""))
    with pytest.raises(PromptsRefused, match="No such file"):
        load(tmp_path / "absent.jsonl")


def test_the_fingerprint_tells_prompts_apart(tmp_path: Path) -> None:
    one, other = load(written(tmp_path, {"prompt": "1"})), load(written(tmp_path, {"prompt": "2"}))
    assert fingerprint(one) == fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize(
    ("check", "answer", "expected"),
    [
        (Check("exact", "Paris"), " Paris\n", True),
        (Check("exact", "Paris"), "Paris.", False),
        (Check("regex", r"\b25\b"), "so 25 are left", True),
        (Check("regex", r"\b25\b"), "so 250 are left", False),
        (Check("json_schema", {"type": "object", "required": ["a"]}), ' {"a": 1} ', True),
        (Check("json_schema", {"type": "object", "required": ["a"]}), '{"b": 1}', False),
        (Check("json_schema", {"type": "object"}), '```json\n{"a": 1}\n```', False),
        (Check("json_schema", {}), "[" * 100_000, False),
    ],
)
def test_answers_are_checked(check: Check, answer: str, expected: bool) -> None:
    assert passes(check, answer) is expected


def test_code_is_taken_from_fences_or_is_the_answer() -> None:
    assert code_in("Here:\n```python\na = 1\n```\nand\n```py\nb = 2\n```\n") == "a = 1\n\nb = 2\n"
    assert code_in("a = 1") == "a = 1"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (LEAP, True),
        (LEAP.replace("!=", "=="), False),
        ("raise SystemExit(0)", False),
        ("import os\nos._exit(0)", False),
        ("while True: pass", False),
        ("x = 'a' * (1 << 31)", False),
        ("open('big', 'wb').write(b'a' * (2 << 20))", False),
    ],
)
def test_code_is_run_with_its_test(code: str, expected: bool) -> None:
    test = "assert is_leap(2000) and not is_leap(1900)" if "is_leap" in code else "pass"
    assert passes(Check("unit_test", test), f"```python\n{code}\n```") is expected
