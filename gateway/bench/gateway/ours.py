"""Our gateway as a contestant, with everything on: its real command line, and a Postgres of its own.

In: the benchmark's `Bench`. Out: three running `Contestant`s: the shape of calls declared; the shape found, which
costs a stream no more than a whole answer; and in a second gateway two workers on the one core, so that what a
second worker costs is seen and not what a second core brings. Five targets lead to the mock upstream, the policy
is the one that `sparkgate init` writes, and the key is held to limits that are never met. The drain and Postgres
are on the other core.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import psutil
import yaml

from gateway.bench import servers
from gateway.bench.gateway import processes
from gateway.bench.gateway.contestant import (
    AUTHORIZATION,
    KEY,
    Bench,
    Contestant,
    Parts,
    Setup,
    chat_url,
    started,
)
from gateway.bench.gateway.readings import (
    DRAIN,
    INFERRED,
    OURS,
    POSTGRES,
    SUPERVISOR,
    TWO_WORKERS,
    WHOLE,
    WHOLE_PACED,
    WORKER,
)
from gateway.callers.store import MAX_LIMIT, Terms, create_key
from gateway.config.load import DEFAULT_POLICY
from gateway.config.variables import API_KEY_VARIABLE, DATABASE_URL_VARIABLE
from gateway.ledger import embedded, migrate, postmaster
from gateway.ledger.database import create_async_engine

_DECLARED = {"X-Task-Shape": "short_chat"}
_TARGETS = 5
_DRAIN_WITHIN_S = 30.0


async def start(stack: AsyncExitStack, bench: Bench, setup: Setup) -> list[Contestant]:
    """Raises NotStarted, and what the embedded Postgres raises."""
    database = bench.folder / "database"
    url = stack.enter_context(embedded.running(database))
    stack.callback(_cut_short, database)
    migrate.upgrade(url)
    await _add_key(url)
    one = await _gateway(stack, bench, database, url, workers=1)
    two = await _gateway(stack, bench, database, url, workers=2)
    return [
        one,
        replace(one, name=INFERRED, headers=AUTHORIZATION, cells=(WHOLE, WHOLE_PACED)),
        replace(two, name=TWO_WORKERS, cells=(WHOLE,)),
    ]


def _cut_short(database: Path) -> None:
    """End Postgres at once: its data goes with the benchmark, so none of it need be written first."""
    if server := postmaster.find(database / "pg"):
        os.kill(server.pid, signal.SIGQUIT)


async def _gateway(stack: AsyncExitStack, bench: Bench, database: Path, url: str, workers: int) -> Contestant:
    data_dir, port = bench.folder / f"gateway-{workers}", servers.free_port()
    data_dir.mkdir()
    config = data_dir / "sparkgate.yaml"
    config.write_text(yaml.safe_dump(_deployment(bench.upstream.url)))
    command = [sys.executable, "-P", "-m", "gateway.cli.main", "gateway", "--config", str(config)]
    command += ["--policy", str(DEFAULT_POLICY), "--data-dir", str(data_dir)]
    command += ["--port", str(port), "--workers", str(workers)]
    env = {DATABASE_URL_VARIABLE: url, API_KEY_VARIABLE: ""}
    headers = {**AUTHORIZATION, **_DECLARED}
    pid, start_s = await started(stack, bench, data_dir.name, command, port, headers, env)
    supervisor = psutil.Process(pid)

    def parts() -> Parts:
        below = supervisor.children(recursive=True)
        server = postmaster.find(database / "pg")
        return {
            WORKER: processes.running(below, "gateway.worker"),
            DRAIN: processes.running(below, "gateway.ledger.drain"),
            POSTGRES: processes.tree(server.pid) if server else [],
            SUPERVISOR: [supervisor],
        }

    deadline = time.monotonic() + _DRAIN_WITHIN_S
    while not (drain := parts()[DRAIN]):  # it is started last
        if time.monotonic() > deadline:
            raise servers.NotStarted(f"the drain was not there after {_DRAIN_WITHIN_S:g} s")
        await asyncio.sleep(0.05)
    processes.move(drain, bench.other_core)
    return Contestant(OURS, chat_url(port), headers, parts=parts, start_s=start_s, spool=data_dir / "spool")


def _deployment(upstream_url: str) -> dict[str, object]:
    prices = {"input_usd_per_mtok": 0.1, "output_usd_per_mtok": 0.4}
    targets = [
        {
            "kind": "openai",
            "name": f"mock-{number}",
            "base_url": f"{upstream_url}/v1",
            "model": "mock-model",
            "api_key": "none",
            "prices": prices,
        }
        for number in range(1, _TARGETS + 1)
    ]
    return {"engine": {"enabled": False}, "targets": targets, "shutdown_grace_s": 1}


async def _add_key(url: str) -> None:
    engine = create_async_engine(url, application="sparkgate bench")
    most = MAX_LIMIT
    terms: Terms = {"rpm": most, "tpm": most, "parallel": most, "monthly_usd": Decimal(most)}
    async with engine.begin() as connection:
        await create_key(connection, "bench", key=KEY, terms=terms)
    await engine.dispose()
