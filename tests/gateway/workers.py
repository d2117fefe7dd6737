"""Gateway workers of one deployment in this process, each on a port of its own, and the drain that serves them."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn

from gateway.app import GatewayApp
from gateway.assemble import Files, assembled
from gateway.ledger.database import create_engine
from gateway.ledger.drain import Drain
from tests.gateway.conftest import eventually


@asynccontextmanager
async def worker(files: Files, index: int = 0) -> AsyncIterator[str]:
    """Serves as `gateway.worker` does; gives its URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    app = GatewayApp(lambda: assembled(files, index))
    config = uvicorn.Config(app, log_level="warning", lifespan="on", http=app.protocol())
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listening]))
    await eventually(lambda: server.started or serving.done(), within_s=20.0)
    assert server.started, "the worker did not start"
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


@contextmanager
def draining(files: Files) -> Iterator[None]:
    """The drain's own loop, in a thread."""
    engine = create_engine(files.database_url)
    stop = threading.Event()
    thread = threading.Thread(target=Drain(engine, files.data_dir / "spool").run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        engine.dispose()
