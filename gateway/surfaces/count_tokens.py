"""`POST /v1/messages/count_tokens`: how many input tokens a Messages call would have.

The target that such a call would go to is asked, where it speaks Messages. For any other, or when it has trouble, there
is an estimate, which says so (`X-Sparkgate-Estimate: true`). Counting is free: the ledger has no row of it, and of a
key's limits it takes a request but no tokens.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import orjson

from gateway.dispatch.attempt import Body, Deadlines, Failure, fetch
from gateway.dispatch.call import Call
from gateway.dispatch.serve import Dispatcher, unknown_model
from gateway.dispatch.walk import own_words
from gateway.surfaces import messages
from gateway.surfaces.common import Asked, encoded
from gateway.upstreams.base import UpstreamCall
from gateway.wire.paths import COUNT_TOKENS
from router.catalog import Target
from router.decide import UnknownModel, decide

ESTIMATE_HEADER = {"X-Sparkgate-Estimate": "true"}
TOKENS_PER_IMAGE = 1_600  # the most that Anthropic counts for one
WITHIN_S = 10.0
_NO_EXPLORING = 1.0
_FAULTS_OF_THE_CALL = (400, 413, 422)


def call_of(asked: Asked) -> Call:
    """The call that is counted, as one that takes up nothing. Raises `BadRequest`."""
    call = messages.call_of(asked)
    return replace(call, query=replace(call.query, stream=False, input_tokens=0, max_output_tokens=None))


async def count(dispatcher: Dispatcher, asked: Asked, call: Call) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer. Raises `NotFound` for an unknown model."""
    target = _target_of(dispatcher, call)
    if target is not None and COUNT_TOKENS in target.native:
        form = call.form_for(target)
        deadline = asyncio.get_running_loop().time() + WITHIN_S
        request = UpstreamCall(form.path, form.body, stream=False, headers=form.headers)
        answer = await fetch(
            dispatcher.targets.upstreams[target.name], request, Deadlines(deadline, deadline)
        )
        if isinstance(answer, Body):
            return 200, {"X-Sparkgate-Target": target.name}, answer.raw
        if refusal := _refusal(answer):
            return refusal
    return 200, ESTIMATE_HEADER, orjson.dumps({"input_tokens": _estimate(asked)})


def _target_of(dispatcher: Dispatcher, call: Call) -> Target | None:
    targets = dispatcher.targets
    try:
        decision = decide(
            call.query, targets.catalog, dispatcher.policy(), targets.fleet, time.monotonic(), _NO_EXPLORING
        )
    except UnknownModel:
        raise unknown_model(call.query.model) from None
    return targets.catalog.targets[decision.candidates[0].target] if decision.candidates else None


def _refusal(failure: Failure) -> tuple[int, dict[str, str], bytes] | None:
    """The target's own words, where it is the call that it does not like."""
    words = own_words(failure)
    if words is None or failure.http_status not in _FAULTS_OF_THE_CALL:
        return None
    return failure.http_status, {}, words


def _estimate(asked: Asked) -> int:
    images = encoded(asked.body["messages"]).count(b'"type":"image"')
    return messages.call_of(asked).query.input_tokens + TOKENS_PER_IMAGE * images
