"""`LateApp`: an ASGI app that is made beside the first calls rather than before them.

The control plane's framework takes longer to load than all of the data plane. In: how to make the app. Out: the
app; a request that comes before it is there waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

AsgiApp = Callable[..., Any]


class LateApp:
    """`begin` starts to make it, in a thread."""

    def __init__(self, make: Callable[[], AsgiApp]) -> None:
        self._make = make
        self._made: asyncio.Future[AsgiApp] | None = None

    def begin(self) -> None:
        self._made = asyncio.ensure_future(asyncio.to_thread(self._make))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert self._made is not None
        app = await asyncio.shield(self._made)
        await app(scope, receive, send)
