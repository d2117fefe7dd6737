"""Whether a process answers its health check. By the standard library: a start should not wait for a larger client."""

from __future__ import annotations

import asyncio
import urllib.request
from http.client import HTTPException

CHECK_S = 2.0
# The checks are loopback calls: a proxy from the environment has no business in them.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


async def answers(url: str) -> bool:
    """Whether a GET gives status 200 within `CHECK_S`."""
    return await asyncio.to_thread(_answers, url)


def _answers(url: str) -> bool:
    try:
        with _open(url, timeout=CHECK_S) as response:
            return bool(response.status == 200)
    except (OSError, HTTPException):  # no connection, an error status, a broken answer
        return False
