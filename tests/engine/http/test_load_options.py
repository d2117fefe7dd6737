"""ignore_eos, min_tokens and stop_token_ids, with the meaning vLLM gives them, on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.engine.conftest import EngineProcess
from tests.engine.toy import byte_tokenizer

FREE: dict[str, Any] = {"model": "toy", "prompt": "Hello", "seed": 3, "max_tokens": 30, "ignore_eos": True}


@pytest.fixture(scope="module")
def client(toy_server: EngineProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=toy_server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def free_text(client: httpx.Client) -> str:
    return ask(client)[0]


def ask(client: httpx.Client, **changes: Any) -> tuple[str, str, int]:
    """Text, finish reason and number of tokens of an answer."""
    body = client.post("/v1/completions", json={**FREE, **changes}).json()
    choice = body["choices"][0]
    return choice["text"], choice["finish_reason"], body["usage"]["completion_tokens"]


def plain_letter(text: str) -> tuple[str, int]:
    """A character of `text` that is one token, and that token."""
    letter = next(letter for letter in text[3:] if letter.isascii() and letter.isprintable())
    (token_id,) = byte_tokenizer().encode(letter).ids
    return letter, token_id


def test_a_stop_token_ends_the_answer_unshown(client: httpx.Client, free_text: str) -> None:
    letter, token_id = plain_letter(free_text)
    text, reason, count = ask(client, stop_token_ids=[token_id])
    assert (text, reason) == (free_text[: free_text.index(letter)], "stop")
    assert count < FREE["max_tokens"]


def test_stop_tokens_are_not_chosen_before_the_minimum(client: httpx.Client, free_text: str) -> None:
    letter, token_id = plain_letter(free_text)
    for seed in range(8):
        _, _, early = ask(client, stop_token_ids=[token_id], seed=seed, temperature=2.0)
        text, reason, count = ask(
            client, stop_token_ids=[token_id], seed=seed, temperature=2.0, min_tokens=20
        )
        assert letter not in text
        assert count >= 20 if reason == "length" else count > 20
        assert count >= early


def test_stop_strings_wait_for_the_minimum(client: httpx.Client, free_text: str) -> None:
    free = ask(client, min_tokens=30)
    letter, _ = plain_letter(free[0])
    assert ask(client, stop=letter, min_tokens=30) == free
    letter, _ = plain_letter(free_text)
    assert ask(client, stop=letter)[0] == free_text[: free_text.index(letter)]


def test_no_minimum_changes_nothing(client: httpx.Client, free_text: str) -> None:
    assert ask(client, min_tokens=0, stop_token_ids=[])[0] == free_text
    assert ask(client, min_tokens=None, stop_token_ids=None)[0] == free_text


def test_the_models_own_end_is_ignored_or_put_off(client: httpx.Client) -> None:
    long = {"max_tokens": 300, "temperature": 2.0, "ignore_eos": False}
    seed, count = next(
        (seed, count)
        for seed in range(40)
        for _, reason, count in [ask(client, **long, seed=seed)]
        if reason == "stop"
    )
    assert count < 300
    assert ask(client, **{**long, "ignore_eos": True}, seed=seed)[1:] == ("length", 300)
    assert ask(client, **long, seed=seed, min_tokens=count)[2] >= count
    assert ask(client, **long, seed=seed, min_tokens=300)[1:] == ("length", 300)
