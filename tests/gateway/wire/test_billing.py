"""What answers tell of prices beside their usual token counts, as each provider writes it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.wire import chat, messages, responses
from gateway.wire.billing import service_tier_of


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, None),
        ({"service_tier": None, "usage": None}, None),
        ({"service_tier": "default"}, None),
        ({"service_tier": "on_demand"}, None),
        ({"service_tier": "Flex"}, "flex"),
        ({"service_tier": ["odd"], "usage": ["odd"]}, None),
        ({"usage": {"service_tier": "standard", "speed": "standard", "inference_geo": "global"}}, None),
        ({"usage": {"service_tier": "priority", "speed": "fast", "inference_geo": "us"}}, "priority fast us"),
    ],
)
def test_a_service_tier_is_told_where_it_is_out_of_the_ordinary(
    value: dict[str, Any], words: str | None
) -> None:
    assert service_tier_of(value) == words


def test_parts_of_a_chats_usage() -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "total_tokens": 150,
        "prompt_tokens_details": {
            "cache_write_tokens": 20,
            "cache_creation_token_details": {
                "ephemeral_5m_input_tokens": 5,
                "ephemeral_1h_input_tokens": 15,
            },
            "audio_tokens": 7,
            "image_tokens": 0,
        },
        "completion_tokens_details": {"audio_tokens": 3},
        "server_tool_use": {"web_search_requests": 2},
    }
    found = chat.usage_of({"usage": usage})
    assert found is not None
    assert found.apart == {
        "cache_write_1h_tokens": 15,
        "audio_input_tokens": 7,
        "audio_output_tokens": 3,
        "web_searches": 2,
    }


def test_a_usual_usage_has_no_parts_of_its_own() -> None:
    details = {"cached_tokens": 4, "audio_tokens": 0}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": details}
    found = chat.usage_of({"usage": usage})
    assert found is not None
    assert found.apart is None


@pytest.mark.parametrize(("total_tokens", "output_tokens"), [(145, 45), (115, 15)])
def test_reasoning_that_is_counted_beside_the_rest_is_added_to_it(
    total_tokens: int, output_tokens: int
) -> None:
    """As xAI counts; of others the total tells that it is a part already."""
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 15,
        "total_tokens": total_tokens,
        "completion_tokens_details": {"reasoning_tokens": 30 if total_tokens == 145 else 10},
    }
    found = chat.usage_of({"usage": usage})
    assert found is not None
    assert found.output_tokens == output_tokens


def test_parts_of_a_messages_usage_come_piece_by_piece() -> None:
    begun = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 30,
        "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
    }
    first = messages.usage_of({"usage": begun})
    last = messages.usage_of({"usage": {"output_tokens": 5, "server_tool_use": {"web_search_requests": 1}}})
    assert first is not None
    assert last is not None
    assert first.merged(last).apart == {"cache_write_1h_tokens": 20, "web_searches": 1}
    assert last.merged(first).apart == first.merged(last).apart


def test_a_responses_own_searches_are_counted() -> None:
    calls = [
        {"type": "web_search_call", "action": {"type": kind}} for kind in ("search", "open_page", "search")
    ]
    output = [*calls, {"type": "message"}, {"type": "web_search_call"}]
    found = responses.usage_of({"usage": {"input_tokens": 1, "output_tokens": 1}, "output": output})
    assert found is not None
    assert found.apart == {"web_searches": 3}
