"""The data plane's metrics, from closed exchanges to what a scrape says; and of several workers together."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gateway.dispatch.metrics import Metrics, further
from gateway.ledger.records import Attempt, Exchange, Usage

ROOT = Path(__file__).resolve().parents[3]


def attempt(target: str = "a", begun: float = 0.0, total_s: float = 1.0, **changes: Any) -> Attempt:
    return Attempt(target, "m", 1.0, begun, total_s=total_s, **{"cost_nusd": 0} | changes)


def exchange(*attempts: Attempt, **changes: Any) -> Exchange:
    plain: dict[str, Any] = {"status": 200, "shape": "short_chat", "total_s": 1.5, "attempts": list(attempts)}
    return Exchange("alice", "/v1/chat/completions", True, 1.0, **plain | changes)


def scraped(text: str) -> dict[tuple[str, ...], float]:
    """By name and values of labels in the order of their names."""
    return {
        (
            sample.name.removeprefix("sparkgate_"),
            *(sample.labels[name] for name in sorted(sample.labels)),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return Metrics(registry)


def shown(metrics: Metrics, registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    metrics.flush()
    return scraped(generate_latest(registry).decode())


def test_a_stream_counts_in_every_histogram(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.closed(exchange(attempt(usage=Usage(20, 11)), ttft_s=0.5, overhead_s=3e-4))
    found = shown(metrics, registry)
    where = ("short_chat", "a")
    assert found["exchanges_total", "short_chat", "200", "a"] == 1
    assert (found["ttft_seconds_sum", *where], found["completion_seconds_sum", *where]) == (0.5, 1.5)
    assert found["tpot_seconds_count", *where] == 1
    assert found["tpot_seconds_sum", *where] == pytest.approx(0.1)
    assert (found["ttft_seconds_bucket", "0.25", *where], found["ttft_seconds_bucket", "0.5", *where]) == (
        0,
        1,
    )
    assert (found["overhead_seconds_bucket", "0.0002"], found["overhead_seconds_bucket", "0.0005"]) == (0, 1)


def test_tokens_money_and_what_nobody_knows_are_of_all_attempts(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    lost = attempt("b", result="hedge_lost", cost_nusd=None, usage=None)
    answered = attempt(usage=Usage(20, 11, 4, 3, 2), cost_nusd=2_000)
    metrics.closed(exchange(lost, answered, answered=answered))
    metrics.closed(exchange(answered))
    found = shown(metrics, registry)
    kinds = ("input", "output", "cached", "cache_write", "reasoning")
    assert [found["tokens_total", kind, "a"] for kind in kinds] == [40, 22, 8, 6, 4]
    assert found["cost_usd_total", "a"] == pytest.approx(4e-6)
    assert found["unpriced_attempts_total", "b"] == 1
    assert (found["attempts_total", "hedge_lost", "b"], found["attempts_total", "ok", "a"]) == (1, 2)


def test_why_further_attempts_were_made() -> None:
    slow, hedge = attempt("a", 0.0, 2.0), attempt("b", 1.0, 0.5)
    assert list(further([slow, hedge])) == [("b", "hedge")]
    failed = attempt("a", 0.0, 1.0)
    assert list(further([failed, attempt("b", 1.0), attempt("a", 2.5)])) == [
        ("b", "fallback"),
        ("a", "retry"),
    ]
    assert list(further([slow, hedge, attempt("a", 2.0)])) == [("b", "hedge"), ("a", "retry")]
    assert list(further([failed])) == []


def test_a_stream_that_broke_off_did_not_end_well(metrics: Metrics, registry: CollectorRegistry) -> None:
    broken = attempt(usage=Usage(20, 11), result="cut_off", is_estimated=True)
    metrics.closed(exchange(broken, ttft_s=0.5, error_code="cut_off"))
    found = shown(metrics, registry)
    assert found["ttft_seconds_count", "short_chat", "a"] == 1
    assert {
        found.get((f"{name}_seconds_count", "short_chat", "a"), 0) for name in ("completion", "tpot")
    } == {0}


def test_a_deadline_was_missed_by_the_target_that_was_late(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    late, answered = attempt("b", result="timeout_first_token"), attempt("a", 1.0)
    metrics.closed(exchange(late, answered, answered=answered, timed_out="first_token"))
    metrics.closed(exchange(timed_out="total", status=504))
    found = {key: value for key, value in shown(metrics, registry).items() if key[0] == "timeouts_total"}
    assert found == {("timeouts_total", "first_token", "b"): 1, ("timeouts_total", "total", "none"): 1}


def test_answers_from_the_cache_are_no_targets(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.closed(exchange(cache="hit", saved_nusd=3_000))
    found = shown(metrics, registry)
    assert found["exchanges_total", "short_chat", "200", "cache"] == 1
    assert found["cache_answers_total", "hit"] == 1
    assert found["cache_saved_usd_total",] == pytest.approx(3e-6)


def test_nothing_is_counted_twice(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.closed(exchange(attempt(usage=Usage(1, 1))))
    metrics.refused("budget")
    first = shown(metrics, registry)
    assert shown(metrics, registry) == first
    assert first["refusals_total", "budget"] == 1


WORKER = """
import sys
from prometheus_client import CollectorRegistry
from gateway.dispatch.metrics import Metrics
from gateway.ledger.records import Attempt, Exchange
metrics = Metrics(CollectorRegistry())
attempt = Attempt("a", "m", 1.0, total_s=1.0, cost_nusd=1000)
for _ in range(int(sys.argv[1])):
    metrics.closed(Exchange("c", "/v1", True, 1.0, status=200, ttft_s=0.5, total_s=1.0, attempts=[attempt]))
metrics.num_in_flight = 7
metrics.flush()
print("ready", flush=True)
sys.stdin.read()
"""
SCRAPE = """
from prometheus_client import generate_latest
from gateway.assemble import _all_workers
print(generate_latest(_all_workers()).decode())
"""


@pytest.fixture
def folder(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}


@pytest.fixture
def workers(folder: dict[str, str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Two, which have closed two and three calls, and serve seven each."""
    command = [sys.executable, "-c", WORKER]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen([*command, calls], cwd=ROOT, env=folder, **pipes) for calls in ("2", "3")]
    for worker in running:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    yield running
    for worker in running:
        worker.communicate()


def test_workers_add_up_and_one_that_died_serves_nothing(
    workers: list[subprocess.Popen[str]], folder: dict[str, str]
) -> None:
    def scrape() -> dict[tuple[str, ...], float]:
        command = [sys.executable, "-c", SCRAPE]
        return scraped(
            subprocess.run(command, cwd=ROOT, env=folder, check=True, capture_output=True, text=True).stdout
        )

    found = scrape()
    assert found["exchanges_total", "none", "200", "a"] == 5
    assert found["ttft_seconds_bucket", "0.5", "none", "a"] == 5
    assert found["cost_usd_total", "a"] == pytest.approx(5e-6)
    assert found["in_flight",] == 14
    workers[0].kill()
    workers[0].wait()
    found = scrape()
    assert (found["exchanges_total", "none", "200", "a"], found["in_flight",]) == (5, 7)
