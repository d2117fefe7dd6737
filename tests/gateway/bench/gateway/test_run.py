"""`sparkgate bench gateway` as its users run it: straight, bare ASGI and our own gateway, for moments."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil
import pytest
from sqlalchemy import select

from gateway.bench.gateway.bare import Bare
from gateway.bench.gateway.programs import NoProgram, program
from gateway.bench.gateway.readings import CELLS, WHOLE, WHOLE_PACED
from gateway.bench.machine import cores
from gateway.ledger import tables
from gateway.ledger.database import create_engine

pytestmark = pytest.mark.long

NAMES = ["straight", "bare", "sparkgate", "sparkgate, shape inferred", "sparkgate, 2 workers"]


def started(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "gateway.cli.main", "bench", "gateway", *arguments]
    environment = {**os.environ, **environment}
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    process = started(*arguments, **environment)
    out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def skip_where_it_cannot_run() -> None:
    try:
        program("load")
    except NoProgram as reason:
        pytest.skip(str(reason))
    if cores() < 2:
        pytest.skip("the benchmark needs two cores")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def run(folder: Path, database_url: str) -> dict[str, Any]:
    """One short round; LiteLLM and Portkey are asked for without saying where they are."""
    skip_where_it_cannot_run()
    finished = bench(
        *("--contestants", "bare,sparkgate,litellm,portkey", "--seconds", "0.3", "--rounds", "1", "--json"),
        *("--plot", str(folder / "costs.svg")),
        SPARKGATE_DATABASE_URL=database_url,
    )
    assert finished.returncode == 0, finished.stderr
    found: dict[str, Any] = json.loads(finished.stdout)
    return found


def test_every_contestant_answers_every_call(run: dict[str, Any]) -> None:
    read = {(it["contestant"], it["cell"]) for it in run["readings"]}
    cells = [*[CELLS] * 3, (WHOLE, WHOLE_PACED), (WHOLE,)]
    assert read == {(name, cell.name) for name, own in zip(NAMES, cells, strict=True) for cell in own}
    for reading in run["readings"]:
        assert (reading["load"]["errors"], reading["load"]["first_error"]) == (0, None)
        assert reading["load"]["calls"] > 0


def test_figures_are_told_of_each(run: dict[str, Any]) -> None:
    figures = {it["contestant"]: it for it in run["figures"]}
    assert list(figures) == NAMES
    assert all(it["calls_per_s"] > 0 for it in figures.values())
    assert all(figures[name]["start_s"] > 0 and figures[name]["rss_mb"] > 0 for name in NAMES[1:])
    for name in ("bare", "sparkgate"):
        assert figures[name]["cpu_us_per_call"] > 0
        assert figures[name]["cpu_us_per_stream"] > 0


def test_ours_is_told_by_part_and_with_what_it_sustains(run: dict[str, Any]) -> None:
    parts = {it["name"]: it for it in run["parts"]}
    assert list(parts) == ["worker", "drain", "postgres", "supervisor"]
    assert parts["worker"]["cpu_us_per_call"] == run["figures"][2]["cpu_us_per_call"] > 0
    assert run["sustained"]["calls_per_s"] > 0


def test_peers_that_are_not_there_are_named_with_the_way_to_get_them(run: dict[str, Any]) -> None:
    assert any(note.startswith("litellm was left out: name a Python") for note in run["notes"])
    assert any(note.startswith("portkey was left out: install node") for note in run["notes"])


def test_the_run_is_stored_and_drawn(run: dict[str, Any], database_url: str, folder: Path) -> None:
    assert (run["stored"], run["not_stored_because"]) == (True, None)
    engine, runs = create_engine(database_url, application="test"), tables.bench_runs
    with engine.connect() as connection:
        query = select(runs.c.settings, runs.c.results).where(runs.c.kind == "gateway")
        settings, results = connection.execute(query).one()
    engine.dispose()
    assert settings["machine"] == run["machine"]
    assert results["figures"] == run["figures"]
    ElementTree.parse(folder / "costs.svg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--contestants", "bare,envoy"), "--contestants: 'envoy' is not among nginx, bare"),
        (("--plot", "costs.png"), "ends in .svg"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_starts(arguments: tuple[str, ...], message: str) -> None:
    finished = bench(*arguments)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert message in finished.stderr


def test_a_signal_ends_everything_that_was_started() -> None:
    skip_where_it_cannot_run()
    process = started("--contestants", "bare", "--rounds", "1000")
    assert process.stderr is not None
    while "warming up" not in process.stderr.readline():
        assert process.poll() is None
    processes = psutil.Process(process.pid).children(recursive=True)
    assert len(processes) >= 2
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Interrupted after" in err
    assert not any(each.is_running() for each in processes)


def test_bare_asgi_checks_the_key() -> None:
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("it must not read a body for strangers")

    scope = {"type": "http", "headers": [(b"authorization", b"Bearer another")]}
    asyncio.run(Bare("http://127.0.0.1:9", "key")(scope, receive, send))
    assert sent[0]["status"] == 401
