"""OpenAI-compatible servers and sparkgate engines over HTTP. One connection pool per target.

No retries, redirects or time limits: those are decided in dispatch.
In: an `UpstreamCall`. Out: a `Reply` whose bytes are the upstream's own.
"""

from __future__ import annotations

from urllib.parse import quote, urlsplit

import orjson

from gateway.upstreams.base import CutOff, Reply, Unreachable, UpstreamCall
from gateway.upstreams.http_client import Pool, header_lines


class HttpUpstream:
    """A target reached at `base_url` (which includes `/v1` as OpenAI clients write it)."""

    def __init__(self, base_url: str, api_key: str | None) -> None:
        base = urlsplit(base_url.rstrip("/").removesuffix("/v1"))
        authorization = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._pool = Pool(f"{base.scheme}://{base.netloc}")
        self._prefix = quote(base.path, safe="/%")
        self._authorization = header_lines(authorization)
        self._head = header_lines({"Content-Type": "application/json", **authorization})

    async def send(self, call: UpstreamCall) -> Reply:
        body = call.body if isinstance(call.body, bytes) else orjson.dumps(call.body)
        return await self._pool.post(self._prefix + call.path, self._head + header_lines(call.headers), body)

    async def get(self, path: str) -> tuple[int, bytes]:
        """A small control read (an engine's `/state`). Raises `Unreachable`."""
        response = await self._pool.get(self._prefix + path, self._authorization)
        try:
            return response.status, await response.read()
        except CutOff as error:
            raise Unreachable(str(error), was_sent=True) from error
        finally:
            response.close()

    async def close(self) -> None:
        await self._pool.close()
