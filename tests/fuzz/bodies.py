"""The request parsers of all surfaces: a body becomes a call that every target can be asked, or is refused in words."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import orjson

from gateway.app import SURFACES
from gateway.surfaces.common import Asked, decoded
from gateway.wire.errors import BadRequest
from tests.fuzz import mutate
from tests.fuzz.base import FuzzTarget, must
from tests.gateway.surfaces.rich_bodies import BODIES
from tests.gateway.surfaces.test_any_body import TARGETS as ASKED

CORPUS = {path: orjson.dumps(body) for path, body in BODIES.items()}
HEADERS = (
    ("x-task-id", "t2"),
    ("x-task-shape", "support"),
    ("x-task-shape", "none"),
    ("x-task-role", "draft"),
    ("x-slo-ttft-ms", "nan"),
    ("x-slo-tpot-ms", "1e400"),
    ("x-deadline-ms", "-1"),
    ("anthropic-beta", "files-api-2025-04-14"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
)
Given = tuple[str, bytes, dict[str, str]]


def make(path: str, chance: Random) -> Given:
    body, other = orjson.loads(CORPUS[path]), orjson.loads(chance.choice(list(CORPUS.values())))
    raw = mutate.json_of(mutate.tree(chance, body, other))
    if chance.random() < 0.1:
        raw = mutate.raw(chance, raw)
    return path, raw, dict(chance.sample(HEADERS, chance.choice((0, 0, 1, 2))))


def take(given: Given) -> None:
    path, raw, headers = given
    body = _unless_refused(lambda: decoded(raw))
    if body is None:
        return
    call = _unless_refused(lambda: SURFACES[path].call_of(Asked(path, headers, raw, body, "web")))
    if call is None:
        return
    call.fingerprint()
    for target in ASKED.values():
        if path in target.endpoints and (form := _unless_refused(partial(call.form_for, target))):
            must(
                orjson.loads(form.body)["model"] == target.model,
                f"'{target.name}' is asked for another model",
            )


def _unless_refused(make_it: Callable[[], Any]) -> Any:
    try:
        return make_it()
    except BadRequest as refusal:
        must(bool(refusal.param or refusal.code == "invalid_json"), f"names no parameter: {refusal}")
    return None


TARGETS = tuple(FuzzTarget(path, 0.50 / len(BODIES), partial(make, path), take) for path in BODIES)
