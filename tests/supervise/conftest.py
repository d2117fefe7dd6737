"""Real processes to supervise: a small HTTP server, a sleeper, and a board whose text can be read."""

from __future__ import annotations

import asyncio
import io
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from gateway.supervise.status import Board

PATIENCE_S = 60.0  # how long a condition may take on a busy machine; none is expected to

SERVER = """
import http.server, os, signal, sys, time
port, log, leave_after_s = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/slow":
            time.sleep(1.0)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())
    def log_message(self, *_): pass
def on_term(*_):
    open(log, "a").write(f"{os.getpid()} was asked to stop\\n")
    time.sleep(leave_after_s)
    os._exit(0)
signal.signal(signal.SIGTERM, on_term)
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def server_file(tmp_path: Path) -> Path:
    """A program: `server.py PORT LOG LEAVE_AFTER_S` answers every GET with its pid and notes a SIGTERM in LOG."""
    path = tmp_path / "server.py"
    path.write_text(SERVER)
    return path


@pytest.fixture
def shown() -> io.StringIO:
    """What the board printed."""
    return io.StringIO()


@pytest.fixture
def board(shown: io.StringIO) -> Board:
    return Board(Console(file=shown, width=200))


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fails a test that leaves a child process of ours behind."""
    before = set(psutil.Process().children(recursive=True))
    yield
    left = [process for process in psutil.Process().children(recursive=True) if process not in before]
    assert not [
        process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]


def python(*arguments: object) -> tuple[str, ...]:
    return (sys.executable, *(str(argument) for argument in arguments))


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        held = condition()
        if held if isinstance(held, bool) else await held:
            return
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.05)
