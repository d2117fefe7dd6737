"""Gateways mean the same target where its place is the same: server and model count, loopback is each host's own."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from gateway.config.deployment import AnyTarget
from gateway.config.places import place_of

TARGET: TypeAdapter[AnyTarget] = TypeAdapter(AnyTarget)
REMOTE = {"kind": "openai", "name": "a", "base_url": "https://api.example.com/v1", "model": "m"}


def place(host: str = "one", **changes: Any) -> str:
    return place_of(TARGET.validate_python(REMOTE | changes), host)


def test_a_remote_target_is_the_same_for_all_hosts_under_any_name_and_key() -> None:
    assert place() == place("two") == place(name="b", api_key="k")


def test_another_server_or_model_is_another_place() -> None:
    others = {
        place(base_url="https://api.example.org/v1"),
        place(model="n"),
        place(kind="anthropic"),
        place(kind="litellm", base_url=None),
    }
    assert len(others | {place()}) == 5


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8090", "http://localhost:1/v1", "http://[::1]:1", "http://0.0.0.0:1"]
)
def test_loopback_is_each_hosts_own(url: str) -> None:
    for kind in ("engine", "vllm"):
        server = TARGET.validate_python({"kind": kind, "name": "engine", "url": url, "model": "m"})
        assert place_of(server, "one") == place_of(server, "one") != place_of(server, "two")
