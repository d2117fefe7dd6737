"""Values and line numbers of YAML texts, and what is said of texts that are none."""

from __future__ import annotations

import pytest

from gateway.config.mistakes import ConfigError
from gateway.config.yaml_source import MAX_VALUES, parse

TEXT = """\
# a comment
port: 8080
engine:
  model: x
targets:
  - name: a
    url:
      http://h
  - {name: b, tags: [1, 2]}
"""


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml")
    return str(caught.value)


def mistakes(text: str) -> list[str]:
    return [str(mistake) for mistake in parse(text, "f.yaml").mistakes]


def test_values_are_plain() -> None:
    values = parse(TEXT, "f.yaml").values
    assert values == {
        "port": 8080,
        "engine": {"model": "x"},
        "targets": [{"name": "a", "url": "http://h"}, {"name": "b", "tags": [1, 2]}],
    }


@pytest.mark.parametrize(
    ("path", "key_line", "value_line"),
    [
        (("port",), 2, 2),
        (("engine",), 3, 4),
        (("engine", "model"), 4, 4),
        (("targets", 0, "url"), 7, 8),
        (("targets", 1), 9, 9),
        (("targets", 1, "tags", 1), 9, 9),
    ],
)
def test_every_key_and_value_has_its_line(
    path: tuple[str | int, ...], key_line: int, value_line: int
) -> None:
    source = parse(TEXT, "f.yaml")
    assert (source.key_line(path), source.value_line(path)) == (key_line, value_line)


def test_an_absent_key_is_placed_at_the_mapping_around_it() -> None:
    assert parse(TEXT, "f.yaml").key_line(("targets", 1, "kind")) == 9


def test_empty_text_is_none() -> None:
    assert parse("# nothing\n", "f.yaml").values is None


def test_duplicate_keys_are_mistakes_and_the_first_value_stays() -> None:
    source = parse("a: 1\nb: {c: 1,\n    c: 2}\na: 3\n", "f.yaml")
    assert [str(mistake) for mistake in source.mistakes] == [
        "f.yaml:3: b.c: given twice; the first is on line 2",
        "f.yaml:4: a: given twice; the first is on line 1",
    ]
    assert source.values == {"a": 1, "b": {"c": 1}}


def test_syntax_error_names_the_line() -> None:
    assert refusal("a: 1\nb: [1, 2\nc: 3\n").startswith("f.yaml:3: this is not YAML: expected ',' or ']'")


def test_two_documents_are_refused() -> None:
    assert "only one YAML document" in refusal("a: 1\n---\nb: 2\n")


def test_control_characters_are_refused_with_their_line() -> None:
    assert refusal("a: 1\nb: \x01\n") == "f.yaml:2: a control character that YAML does not allow"


def test_keys_that_are_no_text_are_mistakes() -> None:
    assert mistakes("on: 1\n") == ["f.yaml:1: the key on is not text; put it in quotes"]
    assert mistakes("? [1, 2]\n: 1\n") == ["f.yaml:1: the key (a collection) is not text; put it in quotes"]


def test_merge_keys_fill_in_what_is_absent() -> None:
    source = parse("base: &base {a: 1, b: 2}\nmine:\n  <<: *base\n  b: 3\n", "f.yaml")
    assert source.values["mine"] == {"a": 1, "b": 3}
    assert source.value_line(("mine", "a")) == 1
    assert source.value_line(("mine", "b")) == 4


def test_an_alias_inside_itself_is_a_mistake() -> None:
    assert mistakes("a: &a [1, *a]\n") == ["f.yaml:1: a[1]: an alias refers to the value that contains it"]


def test_aliases_that_explode_are_refused() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert f"more than {MAX_VALUES} values" in refusal("\n".join(lines))


def test_endless_nesting_is_refused() -> None:
    assert "nested too deeply" in refusal("[" * 5000 + "]" * 5000)


@pytest.mark.parametrize(
    "value", ["*sk_secret_value", "!sk_secret_value", "'sk_secret_value\nb: 1", "%sk_secret"]
)
def test_no_message_quotes_a_value(value: str) -> None:
    text = f"targets:\n  - api_key: {value}\n"
    try:
        found = mistakes(text)
    except ConfigError as error:
        found = [str(error)]
    assert found
    assert "sk_secret" not in "\n".join(found)


def test_a_date_that_is_none_is_a_mistake_not_a_crash() -> None:
    assert mistakes("a: 2024-99-99\n") == [
        "f.yaml:1: a: looks like a number or a date but is none; put it in quotes"
    ]
