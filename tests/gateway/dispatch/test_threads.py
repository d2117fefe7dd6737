"""Threads: the hashes of a call's beginning are those of the calls that it goes on from, and of no others."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dispatch.threads import TURNS, Threads

THREADS = Threads(b"salt")
TEXTS = st.text(max_size=5)
USER, MODEL = ({"role": role, "content": "x"} for role in ("user", "assistant"))


def of(history: list[Any], caller: str = "alice", goes_on_from: str | None = None, **given: Any) -> Any:
    return THREADS.of(caller, history, goes_on_from, **given)


@given(st.lists(st.tuples(TEXTS, TEXTS, st.integers(1, 3)), min_size=1, max_size=8), TEXTS)
def test_a_turn_further_the_place_before_is_found(turns: list[tuple[str, str, int]], question: str) -> None:
    """Turns of the model may be several messages."""
    history: list[Any] = [{"role": "system", "content": "s"}]
    places: list[tuple[str, str]] = []  # of each call: before the model's turn, and with it
    for asked, answer, times in turns:
        history.append({"role": "user", "content": asked})
        before = of(history)["own"][0]
        history += [{"role": "assistant", "content": answer}] * times
        places.append((before, of(history)["own"][0]))
    thread = of([*history, {"role": "user", "content": question}])
    expected = places if len(places) <= TURNS + 1 else [places[0], *places[-TURNS:]]
    assert thread["from"] == [list(place) for place in reversed(expected)]
    assert len(thread["own"]) == 1


def test_another_caller_salt_text_or_role_is_another_hash() -> None:
    hashes = [
        of([USER])["own"],
        of([USER], caller="bob")["own"],
        of([USER | {"content": "y"}])["own"],
        of([USER, USER])["own"],
        of([USER | {"role": "system"}])["own"],
        (Threads(b"pepper").of("alice", [USER], None) or {})["own"],
    ]
    assert len({each[0] for each in hashes}) == len(hashes)
    assert all(len(each[0]) == 16 for each in hashes)


def test_marks_for_a_cache_and_the_order_of_keys_do_not_matter() -> None:
    plain = [{"role": "user", "content": [{"type": "text", "text": '"cache_control": said the user'}]}]
    marked = copy.deepcopy(plain)
    marked[0]["content"][0]["cache_control"] = {"type": "ephemeral"}  # type: ignore[index]
    assert of(marked) == of(plain) == of([dict(reversed(plain[0].items()))])


def test_items_of_the_responses_api_are_the_models_or_not() -> None:
    call = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "1", "output": "x"}
    asked = of([USER])
    assert of([USER, {"type": "reasoning", "id": "r"}, call, result])["from"][0][0] == asked["own"][0]
    assert len(of([USER, call, result, call, result])["from"]) == 2
    assert of([USER, {"type": "mcp_approval_response", "approve": True}, "text"])["from"] == []


def test_what_a_provider_keeps_is_gone_on_from_by_its_name_alone() -> None:
    first = of([USER], response_id="resp_1")
    second = of([USER], goes_on_from="resp_1", response_id="resp_2")
    assert second["from"] == [[first["own"][1], None]]
    assert first["own"][0] not in second["own"]
    assert len(second["own"]) == 2  # the conversation's, and the answer's


@pytest.mark.parametrize("history", [[], orjson.loads("[" * 300 + "]" * 300)])
def test_what_has_no_messages_or_cannot_be_written_has_no_thread(history: list[Any]) -> None:
    assert of(history) is None


def test_a_history_that_begins_with_the_model_goes_on_from_nothing() -> None:
    assert of([MODEL, USER])["from"] == []
