"""A real gateway worker on a real port, over a real Postgres, with scripted upstreams as its targets."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import uvicorn

from gateway.app import GatewayApp
from gateway.assemble import Files, assembled
from gateway.callers.store import create_key
from gateway.config.deployment import Deployment
from gateway.control import key_watch, policy_watch
from gateway.ledger.database import create_async_engine
from gateway.ledger.segments import decode_line, lines_of
from tests.fakes import FakeUpstream, fake_upstream

KEY = "sg-test-key-of-the-suite"
CHAT = "/v1/chat/completions"
HELLO = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}


@dataclass
class Gateway:
    """A running gateway and how a client talks to it."""

    url: str
    data_dir: Path
    session: aiohttp.ClientSession
    fakes: dict[str, FakeUpstream]
    policy_file: Path
    headers: dict[str, str] = field(default_factory=lambda: {"Authorization": f"Bearer {KEY}"})

    async def post(
        self, body: dict[str, Any], path: str = CHAT, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """(status, headers in lower case, body); header names given as x_task_id."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.post(self.url + path, json=body, headers=self.headers | given) as response:
            return response.status, {k.lower(): v for k, v in response.headers.items()}, await response.read()

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        async with self.session.get(self.url + path, headers=self.headers | headers) as response:
            raw = await response.read()
            return response.status, orjson.loads(raw) if "json" in response.content_type else raw

    def records(self) -> list[dict[str, Any]]:
        """What is in the spool, in order of writing: exchanges, outcomes and prices."""
        files = sorted(self.data_dir.glob("spool/*.*"), key=lambda path: path.name)
        decoded = [decode_line(line) for path in files for line, _ in lines_of(path)]
        return [record for record in decoded if record is not None]

    def exchanges(self) -> list[dict[str, Any]]:
        return [record for record in self.records() if record["kind"] == "exchange"]

    async def exchange(self) -> dict[str, Any]:
        """The only exchange, as soon as it is there."""
        await eventually(lambda: bool(self.exchanges()))
        (only,) = self.exchanges()
        return only


@pytest.fixture(scope="session", autouse=True)
def quick_watches() -> Iterator[None]:
    """Keys and policies are looked at so often that no test waits long for a change to be in force."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_watch, "INTERVAL_S", 0.2)
        patch.setattr(policy_watch, "INTERVAL_S", 0.2)
        yield


async def eventually(is_so: Callable[[], bool], within_s: float = 5.0) -> None:
    """Waits for what another task is about to bring about; fails if it does not happen."""
    end = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < end, "did not happen"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def running_gateway(
    database_url: str,
    data_dir: Path,
    policy: str,
    targets: tuple[str, ...],
    limits: Mapping[str, dict[str, Any]] | None = None,
    **deployment: Any,
) -> AsyncIterator[Gateway]:
    """`limits`: further settings of targets, by name."""
    async with AsyncExitStack() as stack:
        fakes = {name: await stack.enter_async_context(fake_upstream()) for name in targets}
        listed = [_target(name, fake.url, (limits or {}).get(name, {})) for name, fake in fakes.items()]
        given = {"engine": {"enabled": False}, "targets": listed, **deployment}
        policy_file = data_dir / "policy.yaml"
        policy_file.write_text(policy)
        await _add_key(database_url)
        files = Files(Deployment.model_validate(given), {}, policy_file, data_dir, database_url)
        listening = socket.create_server(("127.0.0.1", 0))
        app = GatewayApp(lambda: assembled(files, 0))
        config = uvicorn.Config(app, log_level="warning", lifespan="on", http=app.protocol())
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listening]))
        await eventually(lambda: server.started or serving.done(), within_s=20.0)
        assert server.started, "the gateway did not start"
        session = await stack.enter_async_context(aiohttp.ClientSession())
        try:
            yield Gateway(
                f"http://127.0.0.1:{listening.getsockname()[1]}", data_dir, session, fakes, policy_file
            )
        finally:
            await session.close()  # a connection left open would be waited for
            server.should_exit = True
            await serving


def _target(name: str, url: str, given: Mapping[str, Any]) -> dict[str, Any]:
    address = "url" if given.get("kind") in ("vllm", "sglang") else "base_url"
    usual = {"kind": "openai", "name": name, "model": f"{name}-model", "api_key": f"key-of-{name}"}
    return {**usual, address: url, **given}


async def _add_key(database_url: str) -> None:
    database = create_async_engine(database_url)
    async with database.begin() as connection:
        await create_key(connection, "suite", "admin", KEY)
    await database.dispose()


Run = Callable[[Callable[[Gateway], Awaitable[None]]], None]


@pytest.fixture
def with_gateway(clean_database_url: str, tmp_path: Path) -> Callable[..., Run]:
    """`with_gateway(policy=…, targets=("a", "b"))(test)` runs the coroutine function `test(gateway)`."""

    def prepare(policy: str = "version: 1\n", targets: tuple[str, ...] = ("a",), **deployment: Any) -> Run:
        def run(test: Callable[[Gateway], Awaitable[None]]) -> None:
            async def whole() -> None:
                async with running_gateway(
                    clean_database_url, tmp_path, policy, targets, **deployment
                ) as gateway:
                    await test(gateway)

            asyncio.run(whole())

        return run

    return prepare
