"""A real gateway beside the dashboard, with recorded calls to replay: for the page of policies and its picture."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from gateway.config.load import load_policy
from gateway.ledger.records import Exchange
from router.query import Query
from tests.gateway.conftest import KEY, running_gateway
from tests.gateway.control.recorded_traffic import Truth, record, traffic

TRUTHS = {"deepseek-flash": Truth(0.6, 3.0, 0.0009), "engine": Truth(0.2, 1.1, 0.0002)}
POLICY = """version: 1

shapes:
  support:
    objective: completion_p95
    candidates:
      - deepseek-flash
      - {target: engine, weight: 0.4}
    slo: {ttft_p95_s: 1.5, timeout_rate: 0.005}
  short_chat:
    objective: ttft
    candidates: [engine, deepseek-flash]

defaults:
  explore: 0.02
  retries: {max: 2, budget: 0.2}
"""
ADMIN_KEY = KEY


def recorded_calls(database_url: str, folder: Path, calls: int = 500) -> list[Exchange]:
    """Of the last half an hour, decided by `POLICY`, in the ledger."""
    policy = load_policy(POLICY, "policy.yaml", tuple(TRUTHS))
    shapes = ("support", "support", "short_chat")
    queries = [
        Query("/v1/chat/completions", "auto", caller="app", stream=True, declared_shape=it) for it in shapes
    ]
    made = traffic(policy, TRUTHS, calls, start_s=time.time() - 1800, gap_s=1700 / calls, queries=queries)
    record(database_url, folder, made)
    return made


@contextmanager
def served_gateway(database_url: str, folder: Path) -> Iterator[str]:
    """Its URL. It lives in a thread: beside Playwright this one can have no event loop."""
    url, leave = Future[str](), threading.Event()

    async def serve() -> None:
        async with running_gateway(database_url, folder, POLICY, tuple(TRUTHS)) as gateway:
            url.set_result(gateway.url)
            await asyncio.to_thread(leave.wait)

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            if not url.done():
                url.set_exception(error)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield url.result(60)
    finally:
        leave.set()
        thread.join(60)
