"""The parts on their own, as containers run them: `sparkgate gateway | dashboard | engine`, and a late database."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from gateway.supervise.ports import who_listens
from tests.conftest import PostgresServer
from tests.system.product import PATIENCE_S, SPARKGATE, Product, free_ports

pytestmark = pytest.mark.system


def test_a_gateway_runs_on_a_database_of_its_own(clean_database_url: str) -> None:
    key = "sg-from-the-environment"
    env = {"SPARKGATE_DATABASE_URL": clean_database_url, "SPARKGATE_API_KEY": key}
    product = Product(command="gateway", env=env)
    try:
        product.start()
        headers = {"Authorization": f"Bearer {key}"}
        answer = httpx.get(f"{product.url}/v1/models", headers=headers, timeout=PATIENCE_S, trust_env=False)
        assert answer.status_code == 200
        assert {part.name for part in (product.data_dir / "logs").iterdir()} == {"gateway.log", "drain.log"}
        assert product.stop() == 0
        assert who_listens(product.port) is None
    finally:
        product.remove()


def test_a_gateway_on_a_database_without_tables_says_what_to_do(postgres: PostgresServer) -> None:
    product = Product(command="gateway", env={"SPARKGATE_DATABASE_URL": postgres.create(migrated=False)})
    try:
        product.launch()
        assert product.wait() == 2
        assert "run `sparkgate db upgrade`" in product.output
    finally:
        product.remove()


def test_a_gateway_whose_embedded_database_does_not_run_says_so(tmp_path: Path) -> None:
    command = [str(SPARKGATE), "gateway", "--data-dir", str(tmp_path), "--port", "0"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 2
    assert "no Postgres runs in" in done.stderr
    assert "sparkgate up" in done.stderr


def test_up_waits_for_a_database_that_is_late_and_can_be_stopped_meanwhile() -> None:
    (port,) = free_ports(1)
    url = f"postgresql://nobody:hidden-word@127.0.0.1:{port}/ledger"
    product = Product("--no-engine", "--no-dashboard", env={"SPARKGATE_DATABASE_URL": url})
    try:
        product.launch()
        product.wait_for("  database    restarting", times=2)
        assert "hidden-word" not in product.output
        assert product.stop() == 0
    finally:
        product.remove()


def test_the_dashboard_becomes_streamlit_without_telemetry(clean_database_url: str, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    env = {**os.environ, "SPARKGATE_DATABASE_URL": clean_database_url}
    command = [str(SPARKGATE), "dashboard", "--port", str(port), "--data-dir", str(tmp_path)]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL) as process:
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}/_stcore/health", process)
            holder = who_listens(port)
            assert holder is not None
            assert holder.pid == process.pid  # it replaced the command: signals of a container reach it
            arguments = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
            assert arguments[arguments.index("--browser.gatherUsageStats") + 1] == "false"
        finally:
            process.terminate()


def test_the_engine_takes_its_model_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "sparkgate.yaml").write_text("engine: {model: ./no-such-folder}\n")
    command = [str(SPARKGATE), "engine", "--data-dir", str(tmp_path)]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 2
    assert "no-such-folder" in done.stderr
    assert "Traceback" not in done.stderr


def wait_until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "it ended"
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"{url} never answered")
