"""Everything that `sparkgate bench gateway` compares, running side by side for as long as it measures.

In: a `Setup`. Out: a `Bench` and `Contestant`s that answer, and notes on those that are left out. Ours must start; a
peer that is not there or does not start is left out with a note.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp

from gateway.bench.gateway import ours, peers
from gateway.bench.gateway.contestant import Bench, Contestant, NotInstalled, Setup
from gateway.bench.gateway.programs import program
from gateway.bench.gateway.readings import BARE, LITELLM, NGINX, OURS, PORTKEY, STRAIGHT
from gateway.bench.gateway.traffic import PATH, mock
from gateway.bench.servers import NotStarted

_STARTS = {
    NGINX: peers.nginx,
    BARE: peers.bare,
    OURS: ours.start,
    LITELLM: peers.litellm,
    PORTKEY: peers.portkey,
}


@asynccontextmanager
async def opened(
    setup: Setup, notes: list[str], tell: Callable[[str], None]
) -> AsyncIterator[tuple[Bench, list[Contestant]]]:
    """`tell` hears what is being started. Raises NoProgram, and NotStarted for what must start."""
    program("load")  # or a start would be in vain
    async with AsyncExitStack() as stack:
        core, other_core = stack.enter_context(_two_cores())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sparkgate-bench-")))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
        )
        upstream = await stack.enter_async_context(mock(session, folder))
        bench = Bench(session, upstream, folder, core, other_core)
        found = [Contestant(STRAIGHT, upstream.url + PATH)]
        for name in setup.names:
            tell(f"starting {name}")
            try:
                found += await _STARTS[name](stack, bench, setup)
            except NotInstalled as missing:
                notes.append(f"{name} was left out: {missing}")
            except NotStarted as error:
                if name == OURS:
                    raise
                notes.append(f"{name} could not be started: {error}")
        yield bench, found


@contextmanager
def _two_cores() -> Iterator[tuple[int, int]]:
    """One core for contestants, and one on which we are ourselves for so long, with all else that we start."""
    before = os.sched_getaffinity(0)
    if len(before) < 2 or shutil.which("taskset") is None:
        raise NotStarted(
            "the benchmark needs two cores, and `taskset` (package util-linux) to keep them apart"
        )
    core, other_core = sorted(before)[:2]
    os.sched_setaffinity(0, {other_core})
    try:
        yield core, other_core
    finally:
        os.sched_setaffinity(0, before)
