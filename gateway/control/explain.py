"""What would become of a request: read as its surface reads it, decided as a call is, and sent nowhere.

In: a request or a described call, the catalog, a policy, what is known of the targets. Out: a JSON value: the decision
with every figure and refusal behind it, and what the router was told of the call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from math import nextafter
from typing import Any

import orjson

from gateway.dispatch.call import Call
from gateway.surfaces import chat, embeddings, messages, responses
from gateway.surfaces.common import Asked
from gateway.wire import paths
from gateway.wire.errors import BadRequest
from router.catalog import Catalog
from router.decide import decide
from router.fleet import Fleet
from router.policy import Policy
from router.query import Query

CALL_OF: Mapping[str, Callable[[Asked], Call]] = {
    paths.CHAT: chat.call_of,
    paths.COMPLETIONS: chat.call_of,
    paths.EMBEDDINGS: embeddings.call_of,
    paths.RESPONSES: responses.call_of,
    paths.MESSAGES: messages.call_of,
}
ENDPOINTS = tuple(CALL_OF)
_HIGHEST_DRAW = nextafter(1.0, 0.0)


def query_of_request(endpoint: str, body: dict[str, Any], headers: Mapping[str, str], caller: str) -> Query:
    """As the router would be told of this request. Raises `BadRequest` for one that would be refused."""
    call_of = CALL_OF.get(endpoint)
    if call_of is None:
        raise BadRequest(
            f"no API is served at '{endpoint}'; there are {', '.join(ENDPOINTS)}", param="endpoint"
        )
    lower = {name.lower(): value for name, value in headers.items()}
    return call_of(Asked(endpoint, lower, orjson.dumps(body), body, caller)).query


def explained(
    query: Query, catalog: Catalog, policy: Policy, fleet: Fleet, now: float, draw: float
) -> dict[str, Any]:
    """`draw` is uniform in [0, 1) where calls are real; 1 stands for the highest, at which no share is explored.

    Raises `UnknownModel`.
    """
    decision = decide(query, catalog, policy, fleet, now, min(draw, _HIGHEST_DRAW))
    told = {part.name: getattr(query, part.name) for part in fields(query) if part.compare}
    said = {name: value for name, value in told.items() if value not in (None, {}, "")}
    return {"object": "policy.explanation", **decision.as_json(), "query": said}
