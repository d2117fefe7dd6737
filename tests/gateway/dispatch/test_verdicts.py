"""Verdicts on calls, by every rule that a policy may set."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.dispatch.verdicts import verdict
from gateway.ledger.records import Exchange
from gateway.wire.paths import CHAT, EMBEDDINGS
from router.policy import CompletedWhen
from router.query import Query

RULES: tuple[CompletedWhen, ...] = ("finish_stop", "explicit", "json_valid", "tool_loop_ends")


def judged(
    rule: CompletedWhen = "finish_stop",
    reason: str | None = "stop",
    *,
    endpoint: str = CHAT,
    limit: int | None = None,
    has_tool_messages: bool = False,
    is_json: bool = True,
    **closed: Any,
) -> str | None:
    given = {"status": 200, "finish_reason": reason} | closed
    exchange = Exchange("alice", endpoint, False, 0.0, **given)
    query = Query(endpoint, "auto", max_output_tokens=limit, has_tool_messages=has_tool_messages)
    return verdict(exchange, rule, query, lambda: is_json)


@pytest.mark.parametrize("rule", RULES)
def test_what_broke_has_failed_and_who_left_has_not_said(rule: CompletedWhen) -> None:
    failed = None if rule == "explicit" else "failed"
    assert judged(rule, None, status=502, error_code="upstream_error") == failed
    assert judged(rule, None, error_code="cut_off") == failed
    assert judged(rule, "content_filter") == failed
    assert judged(rule, None, status=499) is None
    assert judged(rule, None, error_code="client_gone") is None
    assert judged(rule, "tool_calls") is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "completed"),
        ({"reason": "length"}, "failed"),
        ({"reason": "length", "limit": 5}, "completed"),  # it got what it asked for
        ({"reason": None}, None),  # a response that runs on in the background
        ({"reason": None, "endpoint": EMBEDDINGS}, "completed"),
        ({"rule": "explicit"}, None),
        ({"rule": "json_valid"}, "completed"),
        ({"rule": "json_valid", "is_json": False}, "failed"),
        ({"rule": "tool_loop_ends"}, None),
        ({"rule": "tool_loop_ends", "has_tool_messages": True}, "completed"),
        ({"rule": "tool_loop_ends", "has_tool_messages": True, "reason": "tool_calls"}, None),
    ],
)
def test_an_answer_that_came_to_its_end(given: dict[str, Any], expected: str | None) -> None:
    assert judged(**given) == expected
