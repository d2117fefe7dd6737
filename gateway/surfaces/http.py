"""The HTTP side that all surfaces share: headers, bounded bodies, who is calling, and noticing that a client left.

In: ASGI scope and receive. Out: plain values, or a `GatewayError`. Pure ASGI, no middleware: nothing stands
between a stream and its client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.callers.keys import Key, KeyRing
from gateway.dispatch.call import Receive
from gateway.wire.errors import BadRequest, BodyTooLarge, Forbidden, Unauthorized

MAX_BODY_BYTES = 20 * 1024 * 1024


def headers_of(scope: Mapping[str, Any]) -> dict[str, str]:
    """Names in lower case; of a repeated header the last value."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def authenticate(headers: Mapping[str, str], ring: KeyRing, scopes: tuple[str, ...]) -> Key:
    """The key behind `Authorization: Bearer …` or `x-api-key`. Raises `Unauthorized`, `Forbidden`."""
    authorization, x_api_key = headers.get("authorization"), headers.get("x-api-key")
    if not (authorization or x_api_key):
        raise Unauthorized(
            "no API key: send 'Authorization: Bearer <key>' ('sparkgate keys create' makes one)",
            code="missing_api_key",
        )
    key = ring.find(authorization, x_api_key)
    if key is None:
        raise Unauthorized("this API key is unknown or revoked ('sparkgate keys list' shows the valid ones)")
    if key.scope not in scopes:
        raise Forbidden(f"key '{key.name}' has scope '{key.scope}'; this needs {' or '.join(scopes)}")
    return key


async def read_json(receive: Receive) -> dict[str, Any]:
    """The request body as a JSON object. Raises `BodyTooLarge`, `BadRequest`, and `ClientLeft` in mid-upload."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            raise BodyTooLarge(f"the body is larger than {MAX_BODY_BYTES // 1024**2} MiB")
        if not message.get("more_body", False):
            break
    try:
        value = orjson.loads(b"".join(parts))
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object", code="invalid_json")
    return value


class ClientLeft(Exception):
    """The client closed before its request was complete: nobody to answer."""


async def cancel_when_gone(receive: Receive, task: asyncio.Task[Any]) -> None:
    """Cancels `task` as soon as the client closes the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()
