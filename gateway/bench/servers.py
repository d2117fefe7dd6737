"""Processes of our own for the time of a benchmark: started, awaited, ended; their output goes to a log.

In: a command line. Out: a running process. An end that nobody asked for is told with the last lines of its
log.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

_START_TIMEOUT_S = 600.0
_GRACE_S = 15.0
_POLL_S = 0.1
_TAIL_LINES = 8
_ENV = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}


class NotStarted(Exception):
    """A process ended before it was ready, or did not get ready; the message ends with its last words."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def process(argv: Sequence[str], log: Path, *, pipes: bool = False) -> AsyncIterator[Process]:
    """Runs until the block ends; with `pipes`, its stdin and stdout are ours and only stderr is logged."""
    with log.open("wb") as output:
        try:
            running = await asyncio.create_subprocess_exec(
                *argv,
                stdin=PIPE if pipes else DEVNULL,
                stdout=PIPE if pipes else output,
                stderr=output,
                env={**os.environ, **_ENV},
                start_new_session=True,
            )
        except OSError as error:
            raise NotStarted(f"{argv[0]}: {error.strerror}") from None
    try:
        yield running
    finally:
        await _end(running)


@asynccontextmanager
async def server(
    argv: Sequence[str], url: str, log: Path, session: aiohttp.ClientSession
) -> AsyncIterator[None]:
    """A server that answers 200 at `url`/health once the block begins. Raises NotStarted."""
    async with process(argv, log) as running:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not await _is_healthy(session, url):
            if running.returncode is not None:
                raise NotStarted(f"exited with code {running.returncode}:\n{last_words(log)}")
            if time.monotonic() > deadline:
                raise NotStarted(f"was not ready within {_START_TIMEOUT_S:g} s:\n{last_words(log)}")
            await asyncio.sleep(_POLL_S)
        yield


async def output_of(argv: Sequence[str]) -> str:
    """What a command prints; its stderr stays ours, so that its progress is seen. Raises NotStarted."""
    running = await asyncio.create_subprocess_exec(
        *argv, stdin=DEVNULL, stdout=PIPE, env={**os.environ, **_ENV}
    )
    try:
        printed, _ = await running.communicate()
    finally:
        await _end(running)
    if running.returncode != 0:
        raise NotStarted(f"{subprocess.list2cmdline(argv)} exited with code {running.returncode}")
    return printed.decode().strip()


def last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return "\n".join(lines[-_TAIL_LINES:]) or "it printed nothing"


async def _is_healthy(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(f"{url}/health") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def _end(running: Process) -> None:
    if running.returncode is None:
        running.terminate()
        try:
            await asyncio.wait_for(running.wait(), _GRACE_S)
        except TimeoutError:
            running.kill()
    await running.wait()
