"""OpenAI's and Anthropic's own Node clients against the gateway: targets that speak their APIs, and that do not.

One Node process asks everything, the tests look at what it understood.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.conftest import PostgresServer
from tests.fakes import stream
from tests.gateway.conftest import KEY, eventually, running_gateway
from tests.gateway.surfaces.native_upstream import ANSWER, ARGUMENTS, break_off, pause, refusing, speak
from tests.node_clients import ask_node

MODELS = ("native", "claude")  # what they speak: OpenAI's APIs, Messages
OPENAI_APIS = ["/v1/chat/completions", "/v1/responses", "/v1/embeddings"]
LIMITS: dict[str, dict[str, Any]] = {"native": {"endpoints": OPENAI_APIS}, "claude": {"kind": "anthropic"}}
POLICY = "version: 1\ndefaults: {retries: {max: 0}}\n"
SCENARIOS = (
    *("chat", "responses", "messages", "embeddings", "tools", "parsed"),
    *("errors", "retries", "timeouts"),
)
# By status: the class of the clients' error, and its type in Anthropic's words. Of a target's 401 and 404 the caller
# hears as a 502: they are about the gateway's account there.
ERRORS = {
    400: ("BadRequestError", "invalid_request_error"),
    401: ("AuthenticationError", "authentication_error"),
    404: ("NotFoundError", "not_found_error"),
    429: ("RateLimitError", "rate_limit_error"),
    500: ("InternalServerError", "api_error"),
    502: ("InternalServerError", "api_error"),
}


class Upstream:
    """Does as the question says: `fail 429`, `first 503 …` (once), `hang`, `pause`, `break off`; else answers well."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    async def answer(self, request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        said = json.dumps(asked)
        if found := re.search(r"fail (\d+)", said):
            return await refusing(int(found[1]), ERRORS[int(found[1])][1])(request, asked)
        first = re.search(r"first (\d+) \w+ \w+", said)
        if first and first[0] not in self._seen:
            self._seen.add(first[0])
            return await refusing(int(first[1]), "overloaded_error", retry_after="1")(request, asked)
        if "hang" in said:
            return await stream(60.0)(request, asked)
        act = break_off if "break off" in said else pause if "pause" in said else speak
        return await act(request, asked)


@pytest.fixture(scope="module")
def said(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the clients understood, by model and scenario; "closed": how many calls were taken back from each."""
    url = postgres.create()
    yield asyncio.run(_asked(url, tmp_path_factory.mktemp("gateway")))
    postgres.drop(url)


async def _asked(database_url: str, folder: Path) -> dict[str, Any]:
    given = {"limits": LIMITS, "unknown_model": "reject"}
    async with running_gateway(database_url, folder, POLICY, MODELS, **given) as gateway:  # type: ignore[arg-type]
        for fake in gateway.fakes.values():
            fake.script = [Upstream().answer] * 100
        understood = await asyncio.to_thread(ask_node, gateway.url, KEY, dict.fromkeys(MODELS, SCENARIOS))
        fakes = gateway.fakes.values()
        await eventually(lambda: all(fake.closed_early >= 4 for fake in fakes))
        return {**understood, "closed": [fake.closed_early for fake in fakes]}


Said = dict[str, Any]


@pytest.fixture(params=MODELS)
def understood(request: pytest.FixtureRequest, said: Said) -> Said:
    model: Said = said[request.param]
    return model


def test_answers_whole_and_streamed(understood: Said) -> None:
    for api, end in (("chat", None), ("responses", "response.completed"), ("messages", "end_turn")):
        answer = understood[api]
        assert (answer["whole"], answer["text"], answer.get("end")) == ("Hello", "Hello", end)
    assert (
        understood["chat"]["usage"]["total_tokens"] == understood["chat"]["streamUsage"]["total_tokens"] == 9
    )
    assert understood["responses"]["usage"]["total_tokens"] == 9
    assert understood["messages"]["usage"]["output_tokens"] == 2
    assert understood["messages"]["counted"]["input_tokens"] > 0


def test_embeddings(said: Said) -> None:
    assert said["native"]["embeddings"] == [[[0.5, -1.0]] * 2] * 2
    assert [error["kind"] for error in said["claude"]["embeddings"]] == ["InternalServerError"] * 2
    assert "does not serve /v1/embeddings" in said["claude"]["embeddings"][0]["message"]


def test_tools_there_and_back(understood: Said) -> None:
    ends = {"chat": "tool_calls", "messages": "tool_use", "responses": "completed"}
    for api, end in ends.items():
        assert understood["tools"][api] == {
            "calls": [[["weather", json.loads(ARGUMENTS)]]] * 2,
            "ends": [end] * 2,
            "answers": ["Hello"] * 2,
        }


def test_structured_outputs(understood: Said) -> None:
    assert understood["parsed"] == [ANSWER] * 4


def test_errors_are_the_clients_own(understood: Said) -> None:
    def kind_of(error: Said) -> tuple[str, int]:
        assert "answer" not in error
        return error["kind"], error["status"]

    errors = understood["errors"]
    for upstream, refusals in errors["failures"].items():
        status = {401: 502, 404: 502}.get(int(upstream), int(upstream))
        kind, type_ = ERRORS[status]
        assert [kind_of(error) for error in refusals] == [(kind, status)] * 3
        assert all("no luck" in error["message"] for error in refusals)
        assert refusals[-1]["type"] == type_
    assert [kind_of(error) for error in errors["ours"]] == [(ERRORS[s][0], s) for s in (400, 401, 404)] * 2
    codes = [error["code"] for error in errors["ours"][:3]]
    assert codes == ["invalid_request", "invalid_api_key", "model_not_found"]
    assert [error["type"] for error in errors["ours"][3:]] == [ERRORS[s][1] for s in (400, 401, 404)]
    assert errors["broken"]["kind"] == "APIError"
    assert "stopped in mid-answer" in errors["broken"]["message"]


def test_the_clients_try_again_when_they_are_told_to_wait(understood: Said) -> None:
    assert understood["retries"] == ["Hello"] * 4


def test_what_a_client_gives_up_is_taken_back_from_the_upstream(understood: Said, said: Said) -> None:
    assert understood["timeouts"] == ["APIConnectionTimeoutError"] * 3
    assert said["closed"] == [4, 4]  # those three, and a stream that was left after its first text
