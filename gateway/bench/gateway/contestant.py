"""`Contestant`: a way to the mock upstream that is measured, and how a gateway's process becomes one.

In: a command line. Out: a process that answers calls, and the seconds from its exec to the first good answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

from gateway.bench import servers
from gateway.bench.gateway.readings import CELLS, NAMES, Cell
from gateway.bench.gateway.traffic import BODY, PATH, Mock
from gateway.bench.servers import NotStarted

KEY = "sk-bench-of-sparkgate"
AUTHORIZATION = {"Authorization": f"Bearer {KEY}"}
_PATIENCE_S = 120.0
_POLL_S = 0.005
Parts = Mapping[str, Sequence[psutil.Process]]


class NotInstalled(Exception):
    """A peer is not there; the text says how to get it."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Which gateways besides none at all, and where to find those that are not on the path."""

    names: tuple[str, ...] = NAMES
    litellm_python: Path | None = None
    portkey: Path | None = None


@dataclass(frozen=True, slots=True)
class Bench:
    """What contestants are started with. `core` is theirs; everything else runs on `other_core`."""

    session: aiohttp.ClientSession
    upstream: Mock
    folder: Path
    core: int
    other_core: int


@dataclass(frozen=True, slots=True)
class Contestant:
    """`parts` are its processes now, by what they do; those on the path of calls are called WORKER.

    `start_s` is from exec to the first good answer. `spool` has what is left to be done after calls, if anything is.
    """

    name: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    cells: tuple[Cell, ...] = CELLS
    parts: Callable[[], Parts] = dict
    start_s: float | None = None
    spool: Path | None = None


async def started(
    stack: AsyncExitStack,
    bench: Bench,
    name: str,
    command: Sequence[str],
    port: int,
    headers: Mapping[str, str],
    env: Mapping[str, str] | None = None,
) -> tuple[int, float]:
    """Run `command` on the contestants' core. Its pid, and the seconds to its first good answer; or NotStarted."""
    settings = [f"{key}={value}" for key, value in (env or {}).items()]
    log = bench.folder / f"{name}.log"
    began_s = time.monotonic()
    running = await stack.enter_async_context(
        servers.process(["taskset", "-c", str(bench.core), "env", *settings, *command], log)
    )
    answer = "nothing"
    while running.returncode is None and time.monotonic() < began_s + _PATIENCE_S:
        try:
            async with bench.session.post(chat_url(port), json=BODY, headers=headers) as reply:
                if reply.status == 200:
                    return running.pid, time.monotonic() - began_s
                answer = f"{reply.status}: {(await reply.text())[:200]}"
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(_POLL_S)
    raise NotStarted(f"it answered {answer}. {servers.last_words(log)}")


def chat_url(port: int) -> str:
    return f"http://127.0.0.1:{port}{PATH}"
