"""What the classifier is given to read of each surface's requests."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.surfaces.wording import wording

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, ("hi", "")),
        (
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "first"},
                    {"role": "assistant", "content": "well"},
                    {"role": "user", "content": [{"type": "text", "text": "last"}, IMAGE]},
                ]
            },
            ("last", "Be brief."),
        ),
        ({"messages": [{"role": "developer", "content": "Be brief."}]}, ("", "Be brief.")),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, ("", "")),
        (
            {"system": [{"type": "text", "text": "S"}], "messages": [{"role": "user", "content": "u"}]},
            ("u", "S"),
        ),
        ({"input": "hello", "instructions": "I"}, ("hello", "I")),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}]}, ("x", "")),
        ({"prompt": "once"}, ("once", "")),
        ({"prompt": ["once", "upon"]}, ("once\nupon", "")),
        ({"prompt": [1, 2, 3]}, ("", "")),
        ({}, ("", "")),
    ],
)
def test_the_last_user_message_and_the_system_prompt(body: dict[str, Any], expected: tuple[str, str]) -> None:
    assert wording(body) == expected


def test_long_texts_are_cut_in_the_middle() -> None:
    text, _ = wording({"prompt": "a" * 500_000 + "b" * 500_000})
    assert (len(text), text[0], text[-1]) == (2_400, "a", "b")
    text, _ = wording({"messages": [{"role": "user", "content": [{"text": str(n)} for n in range(1_000)]}]})
    assert text.split("\n") == [str(number) for number in (*range(8), *range(992, 1_000))]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["role", "content", "text", "type"]), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["messages", "input", "prompt", "system", "instructions"]), JSON))
def test_any_body_has_two_texts(body: dict[str, Any]) -> None:
    assert all(isinstance(text, str) for text in wording(body))
