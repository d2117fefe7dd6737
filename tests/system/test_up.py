"""`sparkgate up` as a user meets it: ready, called, killed in part and whole, refused a second time, stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from gateway.supervise.ports import who_listens
from tests.system.product import PATIENCE_S, SPARKGATE, Product

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def product() -> Iterator[Product]:
    """Everything, engine and dashboard included, with two workers; shared by the tests that leave it running."""
    running = Product("--workers", 2, with_model=True)
    running.start()
    yield running
    running.remove()


@pytest.fixture
def small() -> Iterator[Product]:
    """Postgres, one gateway worker and the drain."""
    one = Product("--no-engine", "--no-dashboard")
    yield one
    one.remove()


def refused(*options: object) -> str:
    """What a `sparkgate up` that must not start says."""
    command = [str(word) for word in (SPARKGATE, "up", *options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def still_running(family: list[psutil.Process]) -> list[psutil.Process]:
    """Zombies are over: Postgres, no child of ours, stays one until the system's first process reaps it."""
    return [
        process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]


def open_ports(product: Product) -> list[int]:
    ports = (product.port, product.engine_port, product.dashboard_port)
    return [port for port in ports if who_listens(port) is not None]


def test_the_printed_curl_line_streams_a_completion_of_the_bundled_engine(product: Product) -> None:
    (line,) = [text for text in product.output.splitlines() if text.strip().startswith("curl ")]
    answer = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    events = [text.removeprefix("data: ") for text in answer.stdout.splitlines() if text.startswith("data: ")]
    assert events[-1] == "[DONE]"
    contents = [json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events[:-1]]
    assert "".join(contents).strip()


def test_the_key_is_shown_once_and_kept_for_its_owner_alone(product: Product) -> None:
    assert product.key in product.output
    assert (product.data_dir / "run" / "first_key").stat().st_mode & 0o777 == 0o600
    assert (product.data_dir / "run").stat().st_mode & 0o077 == 0


def test_each_part_has_a_line_that_says_it_is_ready(product: Product) -> None:
    for part in ("postgres", "database", "engine", "gateway-0", "gateway-1", "drain", "dashboard"):
        product.wait_for(f"  {part:<10}  ready")


def test_the_dashboard_is_served_on_loopback(product: Product) -> None:
    product.wait_for("  dashboard   ready")
    assert httpx.get(f"http://127.0.0.1:{product.dashboard_port}/", trust_env=False).status_code == 200
    addresses = [
        entry.laddr.ip
        for entry in psutil.Process(product.pid_of("dashboard")).net_connections("tcp")
        if entry.status == psutil.CONN_LISTEN
    ]
    assert addresses == ["127.0.0.1"]


def test_a_second_copy_on_the_same_data_directory_is_refused(product: Product) -> None:
    message = refused("--data-dir", product.data_dir, "--port", 0)
    assert f"already runs on {product.data_dir} (pid {product.process.pid}, since " in message


def test_taken_ports_are_all_named_with_their_holders(product: Product, tmp_path: Path) -> None:
    product.wait_for("  dashboard   ready")
    ports = ["--port", product.port, "--engine-port", product.engine_port]
    message = refused("--data-dir", tmp_path, *ports, "--dashboard-port", product.dashboard_port)
    for port, pid in (
        (product.port, product.process.pid),  # it opened the socket that its workers share
        (product.engine_port, product.pid_of("engine")),
        (product.dashboard_port, product.pid_of("dashboard")),
    ):
        assert f"port {port} on 127.0.0.1 is taken by " in message
        assert f"(pid {pid}: " in message


def test_a_killed_worker_is_replaced_while_calls_go_on(product: Product) -> None:
    answers: list[int] = []
    cut_off: list[str] = []
    over = threading.Event()

    def call_on_and_on() -> None:
        while not over.is_set():
            try:
                answers.append(product.get("/v1/models").status_code)
            except (httpx.ReadError, httpx.RemoteProtocolError):
                cut_off.append("this call was with the worker that was killed")

    caller = threading.Thread(target=call_on_and_on)
    caller.start()
    killed = product.pid_of("gateway-0")
    os.kill(killed, signal.SIGKILL)
    product.wait_for("  gateway-0   ready", times=2)
    over.set()
    caller.join()
    assert product.pid_of("gateway-0") != killed
    assert set(answers) == {200}  # a connection refused would have raised
    assert len(cut_off) <= 1


def test_a_killed_engine_comes_back(product: Product) -> None:
    os.kill(product.pid_of("engine"), signal.SIGKILL)
    product.wait_for("  engine      ready", times=2)
    assert httpx.get(f"http://127.0.0.1:{product.engine_port}/health", trust_env=False).status_code == 200


def test_sigterm_lets_a_stream_finish_and_leaves_nothing_behind(product: Product) -> None:
    family = product.family()
    body = {
        "model": "engine",
        "stream": True,
        "max_tokens": 60,
        "messages": [{"role": "user", "content": "Tell me."}],
    }
    headers = {"Authorization": f"Bearer {product.key}"}
    url = f"{product.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=headers, timeout=PATIENCE_S, trust_env=False) as answer:
        lines = answer.iter_lines()
        next(line for line in lines if '"content"' in line)
        product.process.send_signal(signal.SIGTERM)
        assert "data: [DONE]" in list(lines)
    assert product.wait() == 0
    assert still_running(family) == []
    assert open_ports(product) == []


def test_ctrl_c_stops_it_as_well(small: Product) -> None:
    small.start()
    family = small.family()
    assert small.stop(signal.SIGINT) == 0
    assert still_running(family) == []


def test_a_lone_worker_that_is_killed_refuses_no_connection(small: Product) -> None:
    small.start()
    os.kill(small.pid_of("gateway"), signal.SIGKILL)
    assert small.get("/v1/models").status_code == 200  # waits in the socket until the next worker accepts


@pytest.mark.parametrize("with_postgres", [True, False], ids=["postgres too", "all but postgres"])
def test_after_kill_9_of_everything_the_next_start_works(small: Product, with_postgres: bool) -> None:
    small.start()
    family = small.family()
    for process in family if with_postgres else family[:-1]:
        process.kill()
    small.wait()
    small.start()
    assert ("was running already" in small.output) is not with_postgres
    assert "was shown at the first start" in small.output
    assert small.get("/v1/models").status_code == 200


def test_what_a_killed_supervisor_left_running_is_ended_by_the_next_start(small: Product) -> None:
    small.start()
    drain = psutil.Process(small.pid_of("drain"))
    drain.suspend()
    while (
        drain.status() != psutil.STATUS_STOPPED
    ):  # then it cannot heed the SIGTERM of its supervisor's death
        assert drain.is_running()
    small.process.kill()
    small.wait()
    assert drain.is_running()
    small.start()
    assert (
        "ended what an earlier start had left running: " in small.output
    )  # a worker may still be about to leave
    assert f"drain (pid {drain.pid})" in small.output
    assert still_running([drain]) == []


def test_the_first_key_may_come_from_the_environment() -> None:
    product = Product("--no-engine", "--no-dashboard", env={"SPARKGATE_API_KEY": "sg-of-my-own-choice"})
    try:
        product.start()
        headers = {"Authorization": "Bearer sg-of-my-own-choice"}
        answer = httpx.get(f"{product.url}/v1/models", headers=headers, timeout=PATIENCE_S, trust_env=False)
        assert answer.status_code == 200
        assert "sg-of-my-own-choice" not in product.output
    finally:
        product.remove()


def test_mistakes_of_both_files_stop_the_start_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("prot: 1\n")
    (tmp_path / "b.yaml").write_text("version: 1\nshapes: {short_chatt: {}}\n")
    data_dir = tmp_path / "data"
    message = refused(
        "--config", tmp_path / "a.yaml", "--policy", tmp_path / "b.yaml", "--data-dir", data_dir
    )
    assert "a.yaml:1" in message
    assert "b.yaml:2" in message
    assert not data_dir.exists()
