"""`/openapi.json` names everything that is served, and other methods than it names are told which there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.app import READY, SURFACES
from gateway.control.openapi import methods_of
from tests.gateway.conftest import Gateway, Run

Prepare = Callable[..., Run]


def test_the_document_names_every_path_and_405_every_method(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        status, document = await gateway.get("/openapi.json", Authorization="")
        assert status == 200
        assert {*SURFACES, READY, "/admin/keys", "/v1/tasks/{task_id}/outcome"} <= set(document["paths"])
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                is_open = (path, method) in [
                    (open, "get") for open in ("/health", READY, "/metrics", "/openapi.json")
                ]
                assert ("401" in operation["responses"]) != is_open, (path, method)
                assert "422" not in operation["responses"]
        for path in ("/v1/chat/completions", READY, "/admin/keys", "/admin/keys/a", "/v1/responses/a/cancel"):
            async with gateway.session.request(
                "TRACE", gateway.url + path, headers=gateway.headers
            ) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (405, "method_not_allowed")
                assert answer.headers["Allow"].split(", ") == methods_of(path, document)
        status, refused = await gateway.get("/nothing")
        assert (status, refused["error"]["code"]) == (404, "not_found")

    with_gateway()(test)


@pytest.mark.parametrize(
    ("path", "methods"),
    [("/a/1", ["GET", "PUT"]), ("/a/1/b", ["POST"]), ("/a", []), ("/a.b", []), ("/a/x/y", ["GET", "PUT"])],
)
def test_methods_are_those_of_the_most_exact_path(path: str, methods: list[str]) -> None:
    document: dict[str, Any] = {
        "paths": {"/a/{name}": {"put": {}, "get": {}, "summary": {}}, "/a/{name}/b": {"post": {}}}
    }
    assert methods_of(path, document) == methods
