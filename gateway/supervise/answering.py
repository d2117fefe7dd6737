"""Whether a process of ours answers its health check. In a few lines of HTTP: no start waits for a client to load."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

CHECK_S = 2.0


async def answers(url: str, headers: Mapping[str, str] = {}, says: str = "") -> bool:
    """Whether a GET of an http:// URL gives status 200 within `CHECK_S`, with `says` in what comes with it."""
    where = urlsplit(url)
    lines = {"Host": where.netloc, "Connection": "close", **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    try:
        async with asyncio.timeout(CHECK_S):
            reader, writer = await asyncio.open_connection(where.hostname, where.port or 80)
            try:
                writer.write(f"GET {where.path or '/'} HTTP/1.1\r\n{head}\r\n".encode())
                status_line = await reader.readline()
                rest = await reader.read() if says else b""
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):  # no connection, no answer in time, no HTTP
        return False
    return status_line.split(b" ")[1:2] == [b"200"] and says.encode() in rest
