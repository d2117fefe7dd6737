"""The benchmark against a real loopback server; the command as its users run it, on a real Postgres."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import insert, select, update

from gateway.bench.models import GatewayUnreachable, Plan, measure
from gateway.bench.prompts import Prompt, load, one
from gateway.bench.samples import Sample
from gateway.ledger import tables
from gateway.ledger.database import create_engine
from tests.gateway.bench.server import ANSWER, KEY, TOKENS, Gateway, serving


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with serving() as running:
        yield running


def measured(gateway: Gateway, *models: str, **how: object) -> list[Sample]:
    return [sample for sample, _ in answered(gateway, *models, **how)]


def answered(gateway: Gateway, *models: str, **how: object) -> list[tuple[Sample, str]]:
    found: list[tuple[Sample, str]] = []
    settings: dict[str, object] = {"runs": 1, "api_key": KEY, "prompts": one("Say six words.")} | how
    plan = Plan(url=gateway.url, models=models, **settings)  # type: ignore[arg-type]
    asyncio.run(measure(plan, lambda sample, answer: found.append((sample, answer))))
    return found


def test_a_good_call_is_timed_and_its_tokens_are_counted_from_usage(gateway: Gateway) -> None:
    (sample,) = measured(gateway, "auto", max_tokens=9)
    assert (sample.error_code, sample.status, sample.output_tokens) == (None, 200, TOKENS)
    assert (sample.target, sample.request_id) == ("target-of-auto", gateway.request_ids[0])
    assert sample.ttft_s is not None
    assert 0 < sample.ttft_s < sample.total_s
    assert gateway.bodies == [
        {
            "model": "auto",
            "messages": [{"role": "user", "content": "Say six words."}],
            "max_tokens": 9,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_an_answer_that_is_not_streamed_has_no_first_token(gateway: Gateway) -> None:
    ((sample, answer),) = answered(gateway, "auto", stream=False)
    assert (sample.error_code, sample.ttft_s, sample.output_tokens) == (None, None, TOKENS)
    assert answer == ANSWER
    assert "stream" not in gateway.bodies[0]


def test_prompts_take_turns_and_the_answers_text_comes_with_each_sample(gateway: Gateway) -> None:
    prompts = (
        Prompt("first", ({"role": "user", "content": "a"},)),
        Prompt("second", ({"role": "user", "content": "b"},), 5, {"type": "json_object"}),
    )
    found = answered(gateway, "auto", "other", runs=3, prompts=prompts, max_tokens=9)
    assert [sample.prompt for sample, _ in found] == ["first", "first", "second", "second", "first", "first"]
    assert {answer for _, answer in found} == {ANSWER}
    assert [body["max_tokens"] for body in gateway.bodies] == [9, 9, 5, 5, 9, 9]
    assert [body.get("response_format") for body in gateway.bodies][1:3] == [None, {"type": "json_object"}]


@pytest.mark.parametrize(
    ("model", "code"), [("refusing", "ledger_full"), ("broken", "upstream_failed"), ("cut", "cut_off")]
)
def test_a_failure_is_named_by_its_code(gateway: Gateway, model: str, code: str) -> None:
    (sample,) = measured(gateway, model)
    assert sample.error_code == code


def test_an_answer_without_a_token_has_no_first_one(gateway: Gateway) -> None:
    (sample,) = measured(gateway, "mute")
    assert (sample.error_code, sample.ttft_s) == (None, None)


def test_patience_ends(gateway: Gateway) -> None:
    (sample,) = measured(gateway, "slow", timeout_s=0.3)
    assert sample.error_code == "client_timeout"


def test_models_take_turns_and_none_is_always_first(gateway: Gateway) -> None:
    measured(gateway, "a", "b", "c", runs=3)
    assert [body["model"] for body in gateway.bodies] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]


def test_concurrency_makes_every_call_exactly_once(gateway: Gateway) -> None:
    samples = measured(gateway, "a", "b", runs=20, concurrency=8)
    assert sorted((sample.model, sample.run) for sample in samples) == [
        (model, run) for model in "ab" for run in range(20)
    ]


def test_a_wrong_key_is_told_before_anything_is_measured(gateway: Gateway) -> None:
    with pytest.raises(GatewayUnreachable, match=r"401 invalid_api_key.*this key is not known"):
        measured(gateway, "auto", api_key="wrong")
    assert gateway.bodies == []


def test_no_gateway_is_told_with_what_to_do(gateway: Gateway) -> None:
    nobody = Gateway()
    nobody.url = "http://127.0.0.1:9"
    with pytest.raises(GatewayUnreachable, match="sparkgate up"):
        measured(nobody, "auto")


def command(
    gateway: Gateway, database_url: str, folder: Path, *arguments: str, key: str | None = KEY
) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "gateway.cli.main", "bench", "models", "--url", gateway.url]
    environment = {name: value for name, value in os.environ.items() if name != "SPARKGATE_API_KEY"}
    environment |= {"SPARKGATE_DATABASE_URL": database_url} | ({"SPARKGATE_API_KEY": key} if key else {})
    return subprocess.Popen(
        [*line, "--data-dir", str(folder), *arguments],
        env=environment | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])},
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_the_command_prints_json_and_stores_the_run(
    gateway: Gateway, clean_database_url: str, tmp_path: Path
) -> None:
    code, out, err = finished(
        command(gateway, clean_database_url, tmp_path, "auto", "refusing", "--runs", "3", "--json")
    )
    assert code == 0, err
    run = json.loads(out)
    assert [report["model"] for report in run["models"]] == ["auto", "refusing"]
    assert run["models"][0]["ttft_s"]["n"] == 3
    assert run["models"][0]["ttft_s"]["too_few_for"] == ["p95", "p99"]
    assert run["models"][1]["errors"] == {"ledger_full": 3}
    assert run["stored"] is True
    assert KEY not in out
    engine = create_engine(clean_database_url)
    with engine.connect() as connection:
        (row,) = connection.execute(select(tables.bench_runs)).mappings().all()
    engine.dispose()
    assert (row["kind"], row["settings"]["runs"]) == ("models", 3)
    assert row["results"] == {"models": run["models"], "samples": run["samples"]}
    assert len(row["results"]["samples"]) == 6


def test_costs_come_from_the_ledger_where_it_knows_them(
    gateway: Gateway, clean_database_url: str, tmp_path: Path
) -> None:
    engine = create_engine(clean_database_url)
    process = command(gateway, clean_database_url, tmp_path, "auto", "--runs", "2", "--json")
    while len(gateway.request_ids) < 2 and process.poll() is None:
        time.sleep(0.01)
    row: dict[str, object] = {
        "caller": "c",
        "endpoint": "/v1/chat/completions",
        "status": 200,
        "stream": True,
        "attempts": 1,
    }
    row |= {"id": UUID(gateway.request_ids[1].removeprefix("req_")), "started_at": datetime.now(UTC)}
    row |= {"total_s": 1.0, "cost_usd": Decimal("0.00025")}
    with engine.begin() as connection:
        connection.execute(insert(tables.exchanges), row)
    engine.dispose()
    code, out, err = finished(process)
    assert code == 0, err
    (report,) = json.loads(out)["models"]
    assert (report["cost_usd"], report["unpriced"]) == (pytest.approx(0.00025), 1)


def test_the_table_marks_percentiles_of_too_few_samples(
    gateway: Gateway, clean_database_url: str, tmp_path: Path
) -> None:
    code, out, err = finished(command(gateway, clean_database_url, tmp_path, "auto", "cut", "--runs", "2"))
    assert code == 0, err
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0][:3] == ["model", "n", "TTFT p50"]
    assert lines[1][0] == "auto"
    assert lines[1][3].endswith("*")
    assert not lines[1][2].endswith("*")
    assert lines[2][9] == "100.0 % (cut_off 2)"
    assert lines[2][11] == "unknown"
    assert "p95 needs 20" in out


def test_a_run_that_could_not_be_stored_is_shown_and_said_so(gateway: Gateway, tmp_path: Path) -> None:
    away = "postgresql://nobody@/none?host=/nonexistent"
    code, out, err = finished(command(gateway, away, tmp_path, "auto", "--runs", "1", "--json"))
    assert code == 0
    assert json.loads(out)["stored"] is False
    assert "The run was not stored: the database cannot be reached" in err


def test_ctrl_c_keeps_what_was_measured(gateway: Gateway, clean_database_url: str, tmp_path: Path) -> None:
    process = command(gateway, clean_database_url, tmp_path, "auto", "slow", "--runs", "5", "--json")
    while "slow" not in [body["model"] for body in gateway.bodies] and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    code, out, err = finished(process)
    assert code == 130
    run = json.loads(out)
    assert (run["settings"]["interrupted"], len(run["samples"]), run["stored"]) == (True, 1, True)
    assert "Interrupted after 1 of 10 calls." in err


def test_the_first_key_is_found_in_the_data_directory(
    gateway: Gateway, clean_database_url: str, tmp_path: Path
) -> None:
    arguments = ("auto", "--runs", "1", "--json")
    code, _, err = finished(command(gateway, clean_database_url, tmp_path, *arguments, key=None))
    assert code == 2
    assert "sparkgate keys create" in err
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "first_key").write_text(KEY + "\n")
    code, out, err = finished(command(gateway, clean_database_url, tmp_path, *arguments, key=None))
    assert code == 0, err
    assert json.loads(out)["models"][0]["errors"] == {}


def test_checks_tell_how_many_tasks_were_completed(
    gateway: Gateway, clean_database_url: str, tmp_path: Path
) -> None:
    checks = [{"exact": ANSWER}, {"regex": "w9"}, {"unit_test": "assert True"}]
    lines = [json.dumps({"prompt": str(check), "check": check}) for check in checks]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    arguments = ("auto", "cut", "--runs", "6", "--prompts", "mine.jsonl", "--plot", "runs.svg")
    code, out, err = finished(command(gateway, clean_database_url, tmp_path, *arguments, "--json"))
    assert code == 0, err
    good, cut = json.loads(out)["models"]
    assert (good["checked"], good["completed"], good["completion_rate"]) == (4, 2, 0.5)
    assert (cut["checked"], cut["completed"]) == (4, 0)
    assert "a unit test, which was not run" in err
    assert "2 of 4" in (tmp_path / "runs.svg").read_text()
    code, out, _ = finished(command(gateway, clean_database_url, tmp_path, *arguments))
    assert code == 0
    assert "2 of 4 (15–85 %)" in out


def test_the_text_of_prompts_is_not_stored(gateway: Gateway, clean_database_url: str, tmp_path: Path) -> None:
    private = "a prompt that is nobody's business"
    code, out, err = finished(
        command(gateway, clean_database_url, tmp_path, "auto", "--runs", "1", "--prompt", private, "--json")
    )
    assert code == 0, err
    assert private not in out


def test_bundled_prompts_are_asked_unless_told_otherwise(
    gateway: Gateway, clean_database_url: str, tmp_path: Path
) -> None:
    runs = len(load())
    code, out, err = finished(
        command(gateway, clean_database_url, tmp_path, "auto", "--runs", str(runs), "--json")
    )
    assert code == 0, err
    assert json.loads(out)["settings"]["prompts"] == [prompt.name for prompt in load()]


def test_bad_prompts_are_all_told_before_anything_is_asked(
    gateway: Gateway, clean_database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.jsonl").write_text('{"prompt": 3}\n\nnot json\n')
    arguments = ("auto", "--prompts", "mine.jsonl")
    code, _, err = finished(command(gateway, clean_database_url, tmp_path, *arguments))
    assert code == 2
    assert "mine.jsonl:1: prompt:" in err
    assert "mine.jsonl:3: no JSON" in err
    assert gateway.bodies == []


def test_every_repeats_when_due_and_compares(
    gateway: Gateway, clean_database_url: str, tmp_path: Path
) -> None:
    arguments = ("auto", "--runs", "6", "--prompt", "Say six words.")
    code, _, err = finished(command(gateway, clean_database_url, tmp_path, *arguments))
    assert code == 0, err
    engine = create_engine(clean_database_url)
    with engine.begin() as connection:  # as if it had been a month ago
        connection.execute(update(tables.bench_runs).values(started_at=datetime(2026, 1, 1, tzinfo=UTC)))
    engine.dispose()
    process = command(gateway, clean_database_url, tmp_path, *arguments, "--every", "30d")
    assert process.stderr is not None
    said = ""
    while "The next run is due on" not in said:
        said += process.stderr.read(1)
        assert process.poll() is None, said
    process.send_signal(signal.SIGINT)
    code, out, _ = finished(process)
    assert code == 130
    assert len(gateway.bodies) == 12
    assert "no difference" in out
    assert "error rate" in out
