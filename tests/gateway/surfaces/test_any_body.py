"""Whatever a caller sends, every surface serves it or refuses it in its own words."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.app import SURFACES
from gateway.config.catalog import catalog
from gateway.config.deployment import Deployment
from gateway.surfaces.common import Asked, decoded
from gateway.wire.errors import BadRequest
from tests.gateway.conftest import KEY, Gateway, Run
from tests.gateway.surfaces.native_upstream import speak
from tests.gateway.surfaces.rich_bodies import BODIES, spoiled

Prepare = Callable[..., Run]
EVERYTHING = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"]
OPENAI = {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "m"}
TARGETS = catalog(
    Deployment.model_validate(
        {
            "targets": [
                {**OPENAI, "name": "native", "endpoints": EVERYTHING},
                {**OPENAI, "name": "chat"},
                {**OPENAI, "name": "strict", "unsupported": "reject"},
                {"kind": "anthropic", "name": "claude", "model": "claude-opus-5"},
                {"kind": "anthropic", "name": "older", "model": "claude-sonnet-4-5"},
            ]
        }
    ),
    {},
).targets  # and the bundled engine
ANY_CALL = st.sampled_from(sorted(BODIES)).flatmap(
    lambda path: st.tuples(st.just(path), spoiled(BODIES[path]), st.sampled_from([{}, {"x-task-id": "t2"}]))
)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (path, target.name)
        for path in BODIES
        for target in TARGETS.values()
        if path in (target.native if target.refuses_unsupported else target.endpoints)
    ],
)
def test_a_rich_call_can_be_put_to_every_target_that_serves_it(path: str, name: str) -> None:
    target, body = TARGETS[name], BODIES[path]
    form = SURFACES[path].call_of(Asked(path, {}, orjson.dumps(body), body, "web")).form_for(target)
    said = json.loads(form.body)
    assert said["model"] == target.model
    assert "task_id" not in said.get("metadata", {})
    assert ("sparkgate" in said) == (target.kind == "engine" and "sparkgate" in body)
    assert (form.translation is None) == (path in target.native)


@settings(max_examples=400)
@given(asked=ANY_CALL)
def test_only_refusals_come_out_of_a_surface(asked: tuple[str, dict[str, Any], dict[str, str]]) -> None:
    path, body, headers = asked
    put_to_all(path, json.dumps(body).encode(), headers)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("depth", [200, 300, 1000, 100_000])
def test_nesting_is_served_or_refused_at_any_depth(path: str, depth: int) -> None:
    """orjson reads deeper than it writes."""
    deep = b"[" * depth + b"]" * depth
    for name in BODIES[path].keys() - {"model", "stream"}:
        rest = json.dumps({key: value for key, value in BODIES[path].items() if key != name}).encode()
        put_to_all(path, rest[:-1] + b', "%b": %b}' % (name.encode(), deep), {})


def put_to_all(path: str, raw: bytes, headers: dict[str, str]) -> None:
    body = unless_refused(lambda: decoded(raw))
    if body is None:
        return
    call = unless_refused(lambda: SURFACES[path].call_of(Asked(path, headers, raw, body, "web")))
    if call is None:
        return
    call.fingerprint()
    for target in TARGETS.values():
        if path in target.endpoints and (form := unless_refused(partial(call.form_for, target))):
            assert json.loads(form.body)["model"] == target.model


def unless_refused(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except BadRequest as refusal:
        error = refusal
    assert error.param or error.code == "invalid_json"
    return None


def test_the_running_gateway_answers_every_call(
    with_gateway: Prepare, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(gateway: Gateway) -> None:
        for fake in gateway.fakes.values():
            fake.script = [speak] * 1000
        headers = {"Authorization": f"Bearer {KEY}"}

        def ask_anything() -> None:
            with httpx.Client(base_url=gateway.url, headers=headers, trust_env=False) as client:

                @settings(max_examples=120, suppress_health_check=list(HealthCheck))
                @given(asked=ANY_CALL)
                def holds(asked: tuple[str, dict[str, Any], dict[str, str]]) -> None:
                    path, body, extra = asked
                    answer = client.post(path, content=json.dumps(body), headers=extra)
                    assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text
                    if answer.status_code != 200:
                        assert answer.json()["error"]["message"]

                holds()

        with caplog.at_level(logging.ERROR):
            await asyncio.to_thread(ask_anything)
        assert not caplog.records

    limits = {"native": {"endpoints": EVERYTHING}, "claude": {"kind": "anthropic"}}
    targets = ("native", "chat", "claude")
    with_gateway("version: 1\ndefaults: {explore: 0}\n", targets, limits=limits)(test)
