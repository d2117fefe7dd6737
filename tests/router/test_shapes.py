from __future__ import annotations

import pytest

from router.policy import Rule
from router.query import Query
from router.shapes import SHAPES, find_shape
from tests.router.calls import CHAT, query

HELPDESK = Rule((("header.x-app", "helpdesk*"),), "support")


@pytest.mark.parametrize(
    ("given", "shape", "source"),
    [
        ({"endpoint": "/v1/embeddings"}, "embedding", "structural"),
        ({"has_tools": True}, "agent_loop", "structural"),
        ({"has_tool_messages": True}, "agent_loop", "structural"),
        ({"wants_json": True}, "extraction", "structural"),
        ({"max_output_tokens": 5}, "classification", "structural"),
        ({"input_tokens": 6_000}, "document_qa", "structural"),
        ({"input_tokens": 20, "max_output_tokens": 200}, "short_chat", "structural"),
        ({"input_tokens": 20}, "general", "default"),
        ({"input_tokens": 20, "max_output_tokens": 2_000}, "general", "default"),
    ],
)
def test_structure_tells_the_shape(given: dict[str, object], shape: str, source: str) -> None:
    finding = find_shape(query(**given), None, ())
    assert (finding.shape, finding.source) == (shape, source)


def test_structure_is_read_in_the_documented_order_of_precedence() -> None:
    everything = query(has_tools=True, wants_json=True, max_output_tokens=5, input_tokens=9_000)
    assert find_shape(everything, None, ()).shape == "agent_loop"
    assert SHAPES.index("agent_loop") < SHAPES.index("extraction") < SHAPES.index("classification")


def test_a_rule_beats_structure_and_a_declaration_beats_both() -> None:
    asked = query(has_tools=True, headers={"x-app": "helpdesk-eu"})
    assert find_shape(asked, None, (HELPDESK,)).shape == "support"
    assert find_shape(asked, "reasoning", (HELPDESK,)).shape == "reasoning"
    declared = query(has_tools=True, headers={"x-app": "helpdesk-eu"}, declared_shape="short_chat")
    assert find_shape(declared, "reasoning", (HELPDESK,)).shape == "short_chat"


@pytest.mark.parametrize(
    ("key", "pattern", "fits"),
    [
        ("header.X-App", "help*", True),
        ("header.x-app", "sales", False),
        ("header.x-other", "*", False),
        ("metadata.team", "blue", True),
        ("metadata.team", "red", False),
        ("model", "gpt-*", True),
        ("caller", "web", True),
        ("endpoint", CHAT, True),
        ("workflow", "*", False),  # absent: no pattern fits what is not there
    ],
)
def test_rule_conditions(key: str, pattern: str, fits: bool) -> None:
    asked = Query(CHAT, "gpt-4o", caller="web", headers={"x-app": "helpdesk"}, metadata={"team": "blue"})
    assert Rule(((key, pattern),), "support").matches(asked) is fits


def test_all_conditions_of_a_rule_must_fit() -> None:
    rule = Rule((("caller", "web"), ("model", "gpt-*")), "support")
    assert rule.matches(Query(CHAT, "gpt-4o", caller="web"))
    assert not rule.matches(Query(CHAT, "gpt-4o", caller="batch"))
