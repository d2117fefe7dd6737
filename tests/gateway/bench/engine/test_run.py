"""`sparkgate bench engine` as its users run it: it starts a toy model's engine and transformers itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil
import pytest
from sqlalchemy import select

from gateway.bench.engine.variants import Setup, engine_command, find_gguf
from gateway.bench.engine.ways import Way
from gateway.ledger import tables
from gateway.ledger.database import create_engine
from tests.engine.toy import write_toy_model

pytestmark = pytest.mark.long

ROUNDS, STREAMS, TOKENS = 2, 2, 24
VARIANTS = ["plain", "prefix auto", "delayed auto", "fixed", "transformers"]


def started(folder: Path, *arguments: str, database_url: str | None = None) -> subprocess.Popen[str]:
    line = [
        sys.executable,
        "-m",
        "gateway.cli.main",
        "bench",
        "engine",
        "--data-dir",
        str(folder),
        *arguments,
    ]
    environment = {name: value for name, value in os.environ.items() if name != "SPARKGATE_DATABASE_URL"}
    environment |= {"SPARKGATE_DATABASE_URL": database_url} if database_url else {}
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def bench(folder: Path, *arguments: str, database_url: str | None = None) -> subprocess.CompletedProcess[str]:
    with started(folder, *arguments, database_url=database_url) as process:
        try:
            out, err = process.communicate(timeout=300)
        finally:
            process.terminate()  # where it has not ended; its servers go with it
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def toy_engine(folder: Path) -> tuple[str, ...]:
    return ("--model", str(folder / "toy"), "--dtype", "float32", "--device", "cpu", "--threads", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("bench")
    write_toy_model(found / "toy")
    return found


@pytest.fixture(scope="module")
def run(folder: Path, database_url: str) -> dict[str, Any]:
    """One run of two toy engines, transformers, and a llama-server that ends at once."""
    (folder / "toy.gguf").touch()
    broken = str(shutil.which("false"))
    finished = bench(
        folder,
        *toy_engine(folder),
        *("--drafter", "lookup", "--modes", "off,auto,fixed", "--draft-schedule", "prefix,delayed"),
        *("--kinds", "chat", "--streams", str(STREAMS), "--tokens", str(TOKENS), "--rounds", str(ROUNDS)),
        *(
            "--llama-server",
            broken,
            "--gguf",
            str(folder / "toy.gguf"),
            "--cost",
            "--usd-per-hour",
            "25",
            "--json",
        ),
        *("--plot", str(folder / "rates.svg"), "--plot-verified", str(folder / "verified.svg")),
        database_url=database_url,
    )
    assert finished.returncode == 0, finished.stderr
    found: dict[str, Any] = json.loads(finished.stdout)
    return found


def test_every_variant_answers_every_wave(run: dict[str, Any]) -> None:
    assert sorted((wave["variant"], wave["round"]) for wave in run["waves"]) == sorted(
        (variant, each) for variant in VARIANTS for each in range(ROUNDS)
    )
    for wave in run["waves"]:
        assert (wave["errors"], wave["tokens"]) == ([], [TOKENS] * STREAMS)
        assert all(ttft_s > 0 for ttft_s in wave["ttft_s"])


def test_variants_take_turns_to_begin(run: dict[str, Any]) -> None:
    firsts = [wave["variant"] for wave in run["waves"][:: len(VARIANTS)]]
    assert firsts == VARIANTS[:ROUNDS]


def test_figures_and_ratios_are_told_for_each_cell(run: dict[str, Any]) -> None:
    assert [(it["variant"], it["kind"], it["streams"]) for it in run["figures"]] == [
        (variant, "chat", STREAMS) for variant in VARIANTS
    ]
    rivals = {
        way: [it["against"] for it in run["ratios"] if it["above"] == way]
        for way in ("delayed auto", "fixed")
    }
    assert rivals == {
        "delayed auto": ["plain", "fixed", "max(plain, fixed)", "transformers"],
        "fixed": ["plain", "transformers"],
    }
    of_transformers = run["figures"][-1]  # its streams advance together: there is always a steady part
    assert of_transformers["decode_tokens_per_s"] > 0
    assert of_transformers["usd_per_mtok"] == pytest.approx(
        25 / of_transformers["decode_tokens_per_s"] / 3600 * 1e6
    )


def test_costs_are_those_of_the_highest_rates(run: dict[str, Any]) -> None:
    """There is one cell, so that each variant that reached a steady rate has its figure as its machine's."""
    rates = {it["variant"]: it["decode_tokens_per_s"] for it in run["figures"] if it["decode_tokens_per_s"]}
    machines = {it["name"].split(",")[0]: it for it in run["costs"]["machines"]}
    assert {name: it["tokens_per_s"] for name, it in machines.items()} == rates
    kept_busy = machines["transformers"]["usd_per_mtok"][0]
    assert kept_busy == {"utilisation": 1.0, "usd": run["figures"][-1]["usd_per_mtok"]}


def test_how_many_drafts_were_verified_is_told(run: dict[str, Any]) -> None:
    """The toy repeats itself soon, so that prompt lookup finds drafts."""
    verified = {it["variant"]: it["verified_length"] for it in run["figures"]}
    assert (verified["plain"], verified["transformers"]) == (0.0, None)
    assert verified["fixed"] > 0


def test_a_baseline_that_cannot_start_is_left_out_with_a_note(run: dict[str, Any]) -> None:
    assert any(
        "llama.cpp (llama-server) could not be started: exited with code 1" in it for it in run["notes"]
    )


def test_the_run_is_stored_with_its_settings_and_the_machine(run: dict[str, Any], database_url: str) -> None:
    assert (run["stored"], run["not_stored_because"]) == (True, None)
    engine, runs = create_engine(database_url, application="test"), tables.bench_runs
    with engine.connect() as connection:
        query = select(runs.c.settings, runs.c.results).where(runs.c.kind == "engine")
        settings, results = connection.execute(query).one()
    engine.dispose()
    assert (settings["streams"], settings["threads"], settings["cost_usd_per_hour"]) == ([STREAMS], 1, 25)
    assert settings["machine"] == run["machine"]
    assert {name: run[name] for name in results} == results
    assert [way["name"] for way in settings["ways"]] == VARIANTS[:-1]
    assert {"figures", "ratios", "matches", "waves", "notes"} <= set(results)


def test_the_plot_shows_what_was_measured(run: dict[str, Any], folder: Path) -> None:
    picture = ElementTree.parse(folder / "rates.svg")
    titles = [str(it.text) for it in picture.iter("{http://www.w3.org/2000/svg}title")]
    measured = [it for it in run["figures"] if it["decode_tokens_per_s"] is not None]
    assert titles == [f"{it['variant']}: {it['decode_tokens_per_s']:.1f}" for it in measured]
    assert "fixed, verified" in (folder / "verified.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kinds", "code,verse"), "--kinds: 'verse' is not among code, math, chat, json"),
        (("--streams", "1,x"), "--streams: '1,x' is not a list of whole numbers"),
        (("--baselines", "vllm"), "--baselines: 'vllm' is not among transformers, llama.cpp"),
        (("--modes", "off,on"), "--modes: 'on' is not among off, auto, fixed, static"),
        (("--draft-schedule", "late"), "--draft-schedule: 'late' is not among prefix, delayed"),
        (("--drafter", "lookup,"), "--drafter: 'lookup,' has a comma too many"),
        (("--url", "http://127.0.0.1:9", "--drafter", "lookup,bundled"), "--url: one engine runs there"),
        (("--plot", "rates.png"), "ends in .svg"),
        (("--plot-verified", "no/such/folder/v.svg"), "there is no folder no/such/folder"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_starts(
    folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    finished = bench(folder, *arguments)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert message in finished.stderr


def test_an_engine_that_does_not_answer_is_told(folder: Path) -> None:
    finished = bench(folder, "--url", "http://127.0.0.1:9", "--baselines", "none")
    assert finished.returncode == 2
    assert "no engine answers at http://127.0.0.1:9" in finished.stderr


def test_a_signal_ends_the_servers_too(folder: Path) -> None:
    endless = ("--kinds", "chat", "--streams", "1", "--tokens", "400", "--rounds", "1000")
    process = started(folder, *toy_engine(folder), "--baselines", "none", *endless)
    assert process.stderr is not None
    while "warming up" not in process.stderr.readline():
        assert process.poll() is None
    servers = psutil.Process(process.pid).children(recursive=True)
    assert servers
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Interrupted after" in err
    assert not any(server.is_running() for server in servers)


def test_the_engine_is_started_for_all_streams_and_without_its_prefix_cache() -> None:
    way = Way("auto", "folder", "delayed", "auto")
    setup = Setup("toy", Path("data"), (way,), max_streams=12, tokens=8, draft_confidence=0.25, threads=3)
    command = engine_command(setup, way, 4711)
    given = dict(pairwise(command))
    assert (given["--drafter"], given["--draft-schedule"], given["--draft-confidence"]) == (
        "folder",
        "delayed",
        "0.25",
    )
    assert (given["--max-batch"], given["--threads"], given["--port"]) == ("12", "3", "4711")
    assert "--no-prefix-cache" in command
    assert "--threads" not in engine_command(replace(setup, threads=None), way, 4711)


def test_the_gguf_of_a_model_is_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "Other-1B.gguf").touch()
    assert find_gguf(tmp_path, "tiny-model") is None
    (tmp_path / "Tiny-Model.Q4_1.gguf").touch()
    assert find_gguf(tmp_path, "tiny-model") == tmp_path / "Tiny-Model.Q4_1.gguf"
