"""Runs the HTTP side in a thread of its own, so that the main thread is left to the model.

In: an app and a bound socket. Out: a server that starts, and stops on request. Signals are not its
business: draining decides when it stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

_STOP_WAIT_S = 5.0


class HttpServer:
    """`loop` exists from the start, so that others may hand work to it; it runs between start and stop."""

    def __init__(self) -> None:
        factory = uvicorn.Config("", loop="auto").get_loop_factory() or asyncio.new_event_loop
        self.loop: asyncio.AbstractEventLoop = factory()
        self._server: _SignallessServer | None = None
        self._thread: threading.Thread | None = None

    def start(self, app: ASGIApp, listener: socket.socket, on_end: Callable[[], None]) -> None:
        """Accept connections; `on_end` is called in the server's thread when it ends, for whatever reason."""
        config = uvicorn.Config(
            app, access_log=False, log_level="warning", timeout_graceful_shutdown=2, ws="none"
        )
        server = self._server = _SignallessServer(config)

        def run() -> None:
            try:
                with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                    runner.run(server.serve(sockets=[listener]))
            finally:
                on_end()

        self._thread = threading.Thread(target=run, name="http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close all connections and wait for the thread."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(_STOP_WAIT_S)


class _SignallessServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
