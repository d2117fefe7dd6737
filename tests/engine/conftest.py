"""Fixtures of the engine's tests: the toy model, the real one, and servers as real processes.

The real model is fetched once a machine into `SPARKGATE_TEST_DIR` (default `.sparkgate-test`).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import torch
from transformers import LlamaForCausalLM

from engine.fetch import BUNDLED_MODEL, fetch_model
from engine.model import Llama
from tests.engine.toy import load_toy, write_toy_model

ROOT = Path(__file__).resolve().parents[2]


class EngineProcess:
    """`python -m engine serve` on a free loopback port."""

    def __init__(self, *arguments: str, log: Path) -> None:
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        command = [sys.executable, "-m", "engine", "serve", "--port", str(self.port), *arguments]
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=output, stdout=output)

    def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                if httpx.get(f"{self.url}/health").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        self.process.kill()
        raise AssertionError(f"the engine did not start:\n{self.log.read_text()}")

    def state(self) -> dict[str, object]:
        answer: dict[str, object] = httpx.get(f"{self.url}/state").json()
        return answer

    def wait_for_state(self, wanted: Callable[[dict[str, object]], bool], timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not wanted(state := self.state()):
            assert time.monotonic() < deadline, f"state stayed {state}"
            time.sleep(0.01)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


StartEngine = Callable[..., EngineProcess]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Toy tensors gain nothing from a second thread, and wait for it long when the machine is busy."""
    torch.set_num_threads(1)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """For the real model, which does gain from a second one."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def start_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartEngine]:
    """Starts engines that are gone when the session ends."""
    started: list[EngineProcess] = []

    def start(*arguments: str) -> EngineProcess:
        log = tmp_path_factory.mktemp("engine") / "log"
        started.append(EngineProcess(*arguments, log=log))
        started[-1].wait_until_ready()
        return started[-1]

    yield start
    for engine in started:
        if engine.process.poll() is None:
            engine.process.kill()
            engine.process.wait()


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "toy"
    write_toy_model(folder)
    return folder


@pytest.fixture(scope="session")
def toy_reference(toy_folder: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(toy_folder).eval()


@pytest.fixture(scope="session")
def toy_model(toy_folder: Path) -> Llama:
    return load_toy(toy_folder)


@pytest.fixture(scope="session")
def toy_server(start_engine: StartEngine, toy_folder: Path) -> EngineProcess:
    return start_engine(
        "--model", str(toy_folder), "--dtype", "float32", "--threads", "1", "--max-batch", "4"
    )


@pytest.fixture(scope="session")
def test_dir() -> Path:
    return Path(os.environ.get("SPARKGATE_TEST_DIR", ROOT / ".sparkgate-test"))


@pytest.fixture(scope="session")
def model_folder(test_dir: Path) -> Path:
    """The bundled model, downloaded and converted."""
    return fetch_model(BUNDLED_MODEL, test_dir).folder


@pytest.fixture(scope="session")
def real_server(start_engine: StartEngine, model_folder: Path, test_dir: Path) -> EngineProcess:
    return start_engine("--data-dir", str(test_dir))
