"""Who is calling: the key that a request carries.

In: headers with names in lower case. Out: a `Key`, or a `GatewayError`.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.callers.keys import Key, KeyRing
from gateway.wire.errors import Forbidden, Unauthorized


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
        raise Unauthorized(
            "this API key is unknown, expired or revoked ('sparkgate keys list' shows the valid ones)"
        )
    if key.scope not in scopes:
        raise Forbidden(f"key '{key.name}' has scope '{key.scope}'; this needs {' or '.join(scopes)}")
    return key
