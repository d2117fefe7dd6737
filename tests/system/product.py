"""`Product`: the real `sparkgate up` (or `gateway`) as a process of its own, its output read line by line.

The bundled model is fetched once a machine into `SPARKGATE_TEST_DIR` (default `.sparkgate-test`) and linked into
each data directory.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import psutil

from gateway.ledger import embedded, postmaster

ROOT = Path(__file__).resolve().parents[2]
SPARKGATE = Path(sys.executable).with_name("sparkgate")
PATIENCE_S = 240.0  # for anything that ought to come; a busy machine loads slowly
READY = "sparkgate is ready"


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def new_data_dir(*, with_model: bool) -> Path:
    """A short path, as Postgres puts its socket there."""
    folder = Path(tempfile.mkdtemp(prefix="sparkgate-test-"))
    if with_model:
        shared = Path(os.environ.get("SPARKGATE_TEST_DIR", ROOT / ".sparkgate-test")).resolve()
        subprocess.run([sys.executable, "-m", "engine", "fetch", "--data-dir", shared], cwd=ROOT, check=True)
        (folder / "models").symlink_to(shared / "models")
        if (
            costs := shared / "run" / "step_costs.json"
        ).exists():  # measured by an engine before: seconds saved
            (folder / "run").mkdir(mode=0o700)
            shutil.copy(costs, folder / "run")
    return folder


class Product:
    """One data directory, on ports of its own; started and ended as often as a test likes."""

    def __init__(
        self,
        *options: object,
        command: str = "up",
        with_model: bool = False,
        env: dict[str, str] | None = None,
    ) -> None:
        self.command = command
        self.data_dir = new_data_dir(with_model=with_model)
        self.port, self.engine_port, self.dashboard_port = free_ports(3)
        self.url = f"http://127.0.0.1:{self.port}"
        self.options = [str(option) for option in options]
        self.env = {name: value for name, value in os.environ.items() if name != "SPARKGATE_API_KEY"} | (
            env or {}
        )
        self._process: subprocess.Popen[str] | None = None
        self._lines: list[str] = []

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    @property
    def output(self) -> str:
        return "".join(self._lines)

    @property
    def key(self) -> str:
        return (self.data_dir / "run" / "first_key").read_text().strip()

    def launch(self) -> None:
        """Start it, without waiting for it."""
        ports = ["--port", self.port]
        if self.command == "up":
            ports += ["--engine-port", self.engine_port, "--dashboard-port", self.dashboard_port]
        command = [SPARKGATE, self.command, "--data-dir", self.data_dir, *ports, *self.options]
        self._lines.clear()
        self._process = subprocess.Popen(
            [str(word) for word in command],
            cwd=self.data_dir,  # no sparkgate.yaml of the checkout is found
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        self.launch()
        self.wait_for(READY)

    def wait_for(self, text: str, times: int = 1) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.output.count(text) < times:
            assert self.process.poll() is None or self.output.count(text) >= times, self.output
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.output}"
            time.sleep(0.05)

    def pid_of(self, part: str) -> int:
        """From the newest status line that names the part's pid."""
        return int(re.findall(rf"  {part} +\w+ +pid (\d+)", self.output)[-1])

    def family(self) -> list[psutil.Process]:
        """The supervisor, all its parts, and the Postgres server, which is no child of it."""
        own = psutil.Process(self.process.pid)
        server = postmaster.find(self.data_dir / "pg")
        return [own, *own.children(recursive=True), *([psutil.Process(server.pid)] if server else [])]

    def get(self, path: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.get(self.url + path, headers=headers, timeout=PATIENCE_S, trust_env=False)

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """Stop it and return its exit code."""
        self.process.send_signal(signum)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end and the end of its output; return its exit code."""
        exit_code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return exit_code

    def remove(self) -> None:
        """End what still runs, then remove the data directory."""
        if self._process is not None and self._process.poll() is None:
            self.stop()
        embedded.stop(self.data_dir)
        shutil.rmtree(self.data_dir)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self._lines.append(line)
