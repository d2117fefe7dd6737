"""Three gateways in network namespaces on one Postgres, behind nginx: limits hold over all of them, one that is cut
off from the database serves on, and restarts fail no call.

`make test-gateways` runs it, and prints the table. It needs root, `ip` and nginx. Each gateway has two links: one to
clients and upstream, and one to the database, which is cut.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from rich.console import Console
from rich.table import Table
from sqlalchemy import make_url, text

from gateway.callers.store import Terms, create_key
from gateway.ledger.database import create_async_engine, create_engine

SPARKGATE = Path(sys.executable).with_name("sparkgate")
SECONDS = float(os.environ.get("SPARKGATE_GATEWAYS_S", "0"))  # a phase
COUNT = 3
DATA, LEDGER = "10.213.1", "10.213.2"  # networks: calls and answers; the database
LOAD_BALANCER = f"http://{DATA}.1:38013"
ANSWER_S, TOKENS = 0.2, 100
KEYS: dict[str, Terms] = {
    "free": {},
    "requests": {"rpm": 600},
    "cut": {"rpm": 600},
    "tokens": {"tpm": 60_000},
    "parallel": {"parallel": 30},
}
NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    upstream gateways {{ {servers} keepalive 32; }}
    server {{
        listen {data}.1:38013;
        location / {{
            proxy_pass http://gateways; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_buffering off; proxy_next_upstream error timeout; proxy_connect_timeout 2s;
        }}
    }}
}}
"""


def _why_not() -> str | None:
    if not SECONDS:
        return "takes minutes: make test-gateways"
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("nginx"):
        return "needs root, ip and nginx"
    made = subprocess.run(["ip", "netns", "add", "sg-probe"], capture_output=True)
    subprocess.run(["ip", "netns", "del", "sg-probe"], capture_output=True)
    return None if made.returncode == 0 else "network namespaces are not permitted here"


pytestmark = [pytest.mark.system, pytest.mark.timeout(120 + 8 * SECONDS)]


def ip(*words: object) -> None:
    subprocess.run(["ip", *map(str, words)], check=True)


@contextmanager
def networks() -> Iterator[None]:
    """Two bridges, and for each gateway a namespace with a link to either."""
    with ExitStack() as stack:
        for name, net in (("sg-data", DATA), ("sg-ledger", LEDGER)):
            ip("link", "add", name, "type", "bridge")
            stack.callback(ip, "link", "del", name)
            ip("addr", "add", f"{net}.1/24", "dev", name)
            ip("link", "set", name, "up")
        for number in range(COUNT):
            space = f"sg-{number}"
            ip("netns", "add", space)
            stack.callback(ip, "netns", "del", space)
            ip("-n", space, "link", "set", "lo", "up")
            for kind, bridge, net in (("data", "sg-data", DATA), ("ledger", "sg-ledger", LEDGER)):
                ip("link", "add", f"{kind}-{number}", "type", "veth", "peer", "name", kind, "netns", space)
                ip("link", "set", f"{kind}-{number}", "master", bridge, "up")
                ip("-n", space, "addr", "add", f"{net}.{10 + number}/24", "dev", kind)
                ip("-n", space, "link", "set", "dev", kind, "up")
        yield


@contextmanager
def in_a_thread(serve: Any) -> Iterator[None]:
    """`serve()` is an async context manager; it is entered in a loop of its own."""
    loop, ready, over = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def run() -> None:
        async with serve():
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    assert ready.wait(30)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


class Upstream:
    """Answers after a moment, and knows how many calls of each key ran at once at most."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()

    async def _answer(self, request: web.Request) -> web.Response:
        who = (await request.json())["user"]
        self.running[who] += 1
        self.peak[who] = max(self.peak[who], self.running[who])
        try:
            await asyncio.sleep(ANSWER_S)
        finally:
            self.running[who] -= 1
        message = {"role": "assistant", "content": "well"}
        usage = {"prompt_tokens": TOKENS - 1, "completion_tokens": 1, "total_tokens": TOKENS}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
        return web.json_response({**whole, "choices": [choice], "usage": usage})

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, f"{DATA}.1", 39013).start()
        yield
        await runner.cleanup()


def relay(socket_path: str) -> Any:
    """The embedded Postgres, which listens on a socket in a folder, on the ledger's network."""

    connections: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        connections.add(connection)
        to_reader, to_writer = await asyncio.open_unix_connection(socket_path)
        halves = [
            asyncio.create_task(carry(reader, to_writer)),
            asyncio.create_task(carry(to_reader, writer)),
        ]
        try:
            with suppress(asyncio.CancelledError):  # at the end
                await asyncio.wait(halves, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for half in halves:
                half.cancel()
            for end in (writer, to_writer):
                end.close()
            connections.discard(connection)

    @asynccontextmanager
    async def serving() -> AsyncIterator[None]:
        async with await asyncio.start_server(accept, f"{LEDGER}.1", 5432):
            yield
            for connection in list(connections):
                connection.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

    return serving


class Gateway:
    """`sparkgate gateway` in a namespace."""

    def __init__(self, number: int, database: str) -> None:
        self.number, self.url = number, f"http://{DATA}.{10 + number}:8080"
        self.folder = Path(tempfile.mkdtemp(prefix=f"sparkgate-many-{number}-"))
        config = {
            "engine": {"enabled": False},
            "host": f"{DATA}.{10 + number}",
            "port": 8080,
            "shutdown_delay_s": 1,
            "targets": [
                {"name": "up", "kind": "openai", "base_url": f"http://{DATA}.1:39013/v1", "model": "m"}
            ],
        }
        (self.folder / "sparkgate.yaml").write_text(json.dumps(config))
        self._env = {**os.environ, "SPARKGATE_DATABASE_URL": database, "SPARKGATE_API_KEY": "sg-admin-of-all"}
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        command = ["ip", "netns", "exec", f"sg-{self.number}", str(SPARKGATE), "gateway"]
        files = ["--data-dir", str(self.folder), "--config", str(self.folder / "sparkgate.yaml")]
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [*command, *files],
                cwd=self.folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    async def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(self.process.wait, 60)

    def link(self, state: str) -> None:
        """Of the database's network."""
        ip("link", "set", f"ledger-{self.number}", state)


async def until_ready(url: str) -> None:
    async with asyncio.timeout(120), aiohttp.ClientSession() as session:
        while True:
            with suppress(aiohttp.ClientError):
                async with session.get(f"{url}/ready") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.1)


@dataclass
class Load:
    """Calls of one key at a steady rate for a while, and what came of them."""

    key: str
    rate: float
    url: str = LOAD_BALANCER
    statuses: Counter[str] = field(default_factory=Counter)

    @property
    def answered(self) -> int:
        return self.statuses["200"]

    async def run(self, seconds: float) -> Load:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=5.0)
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as calls:
            began, sent = time.monotonic(), 0
            while (passed := time.monotonic() - began) < seconds:
                while sent < passed * self.rate:
                    calls.create_task(self._call(session))
                    sent += 1
                await asyncio.sleep(0.005)
        return self

    async def _call(self, session: aiohttp.ClientSession) -> None:
        body = {
            "model": "up",
            "user": self.key,
            "max_tokens": 1,
            "messages": [{"role": "user", "content": "x" * 300}],
        }
        headers = {"Authorization": f"Bearer sg-key-{self.key}"}
        try:
            where = f"{self.url}/v1/chat/completions"
            async with session.post(
                where, json=body, headers=headers, timeout=aiohttp.ClientTimeout(60)
            ) as answer:
                await answer.read()
                self.statuses[str(answer.status)] += 1
        except (aiohttp.ClientError, TimeoutError) as error:
            self.statuses[type(error).__name__] += 1


async def make_keys(url: str) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        for name, terms in KEYS.items():
            await create_key(connection, name, "call", f"sg-key-{name}", terms)
    await engine.dispose()


def rows(url: str) -> int:
    """Answered calls in the ledger."""
    engine = create_engine(url)
    with engine.connect() as connection:
        count = connection.scalar(text("SELECT count(*) FROM exchanges WHERE status = 200"))
    engine.dispose()
    return int(count or 0)


def test_limits_hold_and_no_call_fails(clean_database_url: str) -> None:
    if reason := _why_not():
        pytest.skip(reason)
    asyncio.run(make_keys(clean_database_url))
    where = make_url(clean_database_url)
    database = f"postgresql://postgres@{LEDGER}.1:5432/{where.database}"
    socket_path = f"{where.query['host']}/.s.PGSQL.{where.query['port']}"
    upstream, folder = Upstream(), Path(tempfile.mkdtemp(prefix="sparkgate-nginx-"))
    with ExitStack() as stack:
        stack.enter_context(networks())
        stack.enter_context(in_a_thread(upstream.serving))
        stack.enter_context(in_a_thread(relay(socket_path)))
        gateways = [Gateway(number, database) for number in range(COUNT)]
        for gateway in gateways:
            gateway.launch()
            stack.callback(end, gateway)
        asyncio.run(until_all_ready(gateways))
        servers = " ".join(
            f"server {gateway.url.removeprefix('http://')} max_fails=0;" for gateway in gateways
        )
        config = folder / "nginx.conf"
        config.write_text(NGINX.format(folder=folder, servers=servers, data=DATA))
        nginx = subprocess.Popen(["nginx", "-c", str(config), "-p", str(folder)])
        stack.callback(nginx.wait)
        stack.callback(nginx.terminate)
        asyncio.run(until_ready(LOAD_BALANCER))
        asyncio.run(phases(gateways, upstream, clean_database_url))


def end(gateway: Gateway) -> None:
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        assert gateway.process is not None
        gateway.process.terminate()
        gateway.process.wait(60)
    shutil.rmtree(gateway.folder, ignore_errors=True)


async def until_all_ready(gateways: list[Gateway]) -> None:
    await asyncio.gather(*(until_ready(gateway.url) for gateway in gateways))


async def phases(gateways: list[Gateway], upstream: Upstream, url: str) -> None:
    """All at a few times what the limits allow; see the table for what is asked of each."""
    table = Table(
        "phase", "calls", "answered", "allowed", "over", "failed", title="Three gateways, one Postgres"
    )
    over: dict[str, float] = {}
    failures: dict[str, dict[str, int]] = {}
    loads: list[Load] = []

    def report(phase: str, load: Load, allowed: float | None = None, used: float | None = None) -> None:
        failed = sum(load.statuses.values()) - load.answered - load.statuses["429"]
        used = load.answered if used is None else used
        if allowed is not None:
            over[phase] = used / allowed - 1
        shown = ("", "") if allowed is None else (f"{allowed:.0f}", f"{over[phase]:+.2%}")
        table.add_row(phase, str(load.statuses.total()), f"{used:.0f}", *shown, str(failed))
        loads.append(load)
        failures.update({phase: dict(load.statuses)} if failed else {})

    whole = 1 + SECONDS / 60
    load = await Load("requests", 80).run(SECONDS)
    report("calls a minute", load, 600 * whole)
    load = await Load("tokens", 80).run(SECONDS)
    report("tokens a minute", load, 60_000 * whole, load.answered * TOKENS)
    load = await Load("parallel", 2 * 30 / ANSWER_S).run(SECONDS / 4)
    report("at once", load, 30, upstream.peak["parallel"])

    cut = gateways[-1]
    cut.link("down")
    others, its_own = Load("cut", 40), Load("cut", 40, cut.url)
    await asyncio.gather(others.run(SECONDS), its_own.run(SECONDS))
    cut.link("up")
    both = Load("cut", 0, statuses=others.statuses + its_own.statuses)
    report("calls a minute, one cut off", both, 600 * whole)
    table.add_row("    of these by the one cut off", "", str(its_own.answered), "", "", "")
    assert its_own.answered > 0

    running = asyncio.create_task(Load("free", 50).run(SECONDS))
    for gateway in gateways:
        await gateway.stop()
        gateway.launch()
        await until_ready(gateway.url)
    report("restart, one by one", await running)
    running = asyncio.create_task(Load("free", 50).run(SECONDS))
    for gateway in gateways:
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGHUP)
        await asyncio.sleep(SECONDS / 5)
    report("SIGHUP, one by one", await running)

    answered, found, until = sum(load.answered for load in loads), rows(url), time.monotonic() + 60
    while found < answered and time.monotonic() < until:
        await asyncio.sleep(0.5)
        found = rows(url)
    table.add_row("rows in the ledger", "", str(found), str(answered), "", "")
    Console(width=100).print(table)
    assert failures == {}
    assert found == answered
    assert {phase: round(share, 4) for phase, share in over.items() if share > 0.02} == {}
