"""Servers of OpenAI's and Anthropic's APIs and sparkgate engines over HTTP. One connection pool per target.

No retries, redirects or time limits: those are decided in dispatch.
In: an `UpstreamCall`. Out: a `Reply` whose bytes are the upstream's own.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal
from urllib.parse import quote, urlsplit

from gateway.upstreams.base import CutOff, Reply, Unreachable, UpstreamCall, without
from gateway.upstreams.http_pool import Pool, header_lines

Method = Literal["GET", "DELETE", "POST"]
_KEYS = {"authorization": "Bearer {}", "x-api-key": "{}"}  # OpenAI's way and Anthropic's


class HttpUpstream:
    """A target reached at `base_url`, with or without the `/v1` that OpenAI clients write at its end."""

    def __init__(
        self, base_url: str, api_key: str | None, api_key_headers: Collection[str] = ("authorization",)
    ) -> None:
        """`api_key_headers`: in which of `authorization` and `x-api-key` the target looks for its key."""
        base = urlsplit(base_url.rstrip("/").removesuffix("/v1"))
        authorization = {name: _KEYS[name].format(api_key) for name in api_key_headers} if api_key else {}
        self._secrets = (api_key,) if api_key else ()
        self._pool = Pool(f"{base.scheme}://{base.netloc}")
        self._prefix = quote(base.path, safe="/%")
        self._authorization = header_lines(authorization)
        self._head = header_lines({"Content-Type": "application/json", **authorization})

    async def send(self, call: UpstreamCall) -> Reply:
        head = self._head + header_lines(call.headers)
        return await self._pool.post(
            self._prefix + call.path, head, call.body, retry_stale=call.is_repeatable, mark=call.mark
        )

    async def ask(self, method: Method, path: str) -> Reply:
        """For something that the target keeps: nothing but a path. Raises `Unreachable`."""
        path, head = self._prefix + path, self._authorization
        if method == "POST":
            return await self._pool.post(path, head, b"")
        return await self._pool.get(path, head, method=method)

    async def get(self, path: str) -> tuple[int, bytes]:
        """A small control read (an engine's `/state`). Raises `Unreachable`."""
        response = await self._pool.get(self._prefix + path, self._authorization)
        try:
            return response.status, await response.read()
        except CutOff as error:
            raise Unreachable(str(error)) from error
        finally:
            response.close()

    def hide(self, said: bytes) -> bytes:
        return without(self._secrets, said)

    async def close(self) -> None:
        await self._pool.close()
