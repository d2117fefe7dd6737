"""Who may use the engine: with a key, who sends it; without one, whoever is on this machine.

In: SPARKGATE_ENGINE_KEY, the address to listen on. Out: the app, behind a door where there is a key. `/health` and
`/metrics`, which tell nothing of any request, stay open for checks and scrapers.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.errors import StartError

KEY_VARIABLE = "SPARKGATE_ENGINE_KEY"
MIN_KEY_CHARS = 16
OPEN_PATHS = frozenset(("/health", "/metrics"))
_REFUSAL = {"message": "this engine wants its key", "type": "invalid_request_error", "param": None}


def key_for(host: str, environment: Mapping[str, str]) -> str | None:
    """Raises StartError for an address that others reach and no key, and for a key that is too short."""
    key = environment.get(KEY_VARIABLE, "")
    if not key and not is_loopback(host):
        where = f"others can reach {host or 'all addresses'}"
        raise StartError(f"{where}: set {KEY_VARIABLE}, here and for the gateway, or listen on 127.0.0.1")
    if key and len(key) < MIN_KEY_CHARS:
        raise StartError(f"{KEY_VARIABLE} should have at least {MIN_KEY_CHARS} characters")
    return key or None


def behind_door(app: ASGIApp, key: str | None) -> ASGIApp:
    return app if key is None else Door(app, key)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Door:
    """Lets through who sends `Authorization: Bearer <key>`."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._expected = app, f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                head = [(b"content-type", b"application/json"), (b"connection", b"close")]
                await send({"type": "http.response.start", "status": 401, "headers": head})
                body = orjson.dumps({"error": {**_REFUSAL, "code": "invalid_api_key"}})
                await send({"type": "http.response.body", "body": body})
                return
        await self._app(scope, receive, send)
