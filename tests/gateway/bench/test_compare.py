"""Two runs side by side: intervals that hold what they promise, verdicts in words, the command on a real Postgres."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway.bench import store
from gateway.bench.compare import Difference, NotComparable, Run, conditions, differences, sentences
from gateway.bench.difference import Groups, mean, percentile, pooled, ratio, share_difference, wilson
from gateway.bench.samples import Sample


def drawn(chance: Random, n: int, times: float = 1.0) -> Groups:
    """Two prompts, one of them five times as long as the other."""
    return {
        name: [by * times * chance.lognormvariate(0, 0.4) for _ in range(n)]
        for name, by in (("a", 1), ("b", 5))
    }


def test_the_interval_of_a_mean_holds_the_truth_in_about_95_of_100_runs() -> None:
    chance = Random(5)
    held = 0
    for _ in range(200):
        found = ratio(drawn(chance, 25), drawn(chance, 25, times=1.3), mean)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 1.3 <= found.high
    assert 178 <= held <= 199  # of 200; 190 were right


def is_told_apart(chance: Random, times: float) -> bool:
    """By the median, which lies between the two prompts' samples."""
    found = ratio(pooled(drawn(chance, 20)), pooled(drawn(chance, 20, times)), percentile(0.5))
    return found is not None and found.excludes(1.0)


def test_equal_groups_are_seldom_told_apart_and_unequal_ones_mostly() -> None:
    chance = Random(6)
    assert sum(is_told_apart(chance, 1.0) for _ in range(60)) <= 6
    assert sum(is_told_apart(chance, 12.0) for _ in range(60)) >= 57


def test_few_samples_give_a_ratio_without_an_interval_and_none_gives_nothing() -> None:
    found = ratio({"a": [1.0, 2.0]}, {"a": [2.0, 4.0]}, mean)
    assert found is not None
    assert (found.value, found.low, found.high) == (2.0, None, None)
    assert ratio({}, {"a": [1.0]}, mean) is None
    assert ratio({"a": [0.0]}, {"a": [1.0]}, mean) is None


def test_the_same_samples_give_the_same_interval() -> None:
    a, b = drawn(Random(1), 20), drawn(Random(2), 20)
    assert ratio(a, b, mean) == ratio(a, b, mean)


def test_shares_have_newcombes_interval() -> None:
    # Newcombe 1998, table II, method 10: 56/70 and 48/80 differ by 0.2, 0.0524 to 0.3339
    found = share_difference(48, 80, 56, 70)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert [found.value, found.low, found.high] == pytest.approx([0.2, 0.0524, 0.3339], abs=1e-4)
    assert share_difference(0, 0, 1, 2) is None
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0


def samples(
    model: str, times: float, *, failed: int = 0, completed: float | None = None, n: int = 40
) -> list[Sample]:
    chance = Random(3)
    made = []
    for run in range(n):
        ttft_s = times * chance.lognormvariate(-1, 0.2)
        is_done = None if completed is None else run / n < completed
        error = "timeout_total" if run < failed else None
        made.append(
            Sample(
                model, run, ttft_s * 4, ttft_s, 33, error, 200, "t", None, 0.001, f"prompt {run % 4}", is_done
            )
        )
    return made


def run(label: str, *of: list[Sample], **settings: Any) -> Run:
    rows = [asdict(sample) for group in of for sample in group]
    return Run(label, "models", "2026-01-01", settings, {"samples": rows})


def by_figure(found: list[Difference]) -> dict[str, Difference]:
    return {it.figure: it for it in found}


def test_a_faster_run_is_better_and_a_failing_one_worse() -> None:
    a = run("a", samples("auto", 1.0, completed=0.5))
    b = run("b", samples("auto", 0.5, failed=12, completed=0.9))
    found = by_figure(differences(a, b))
    verdicts = {name: it.verdict for name, it in found.items()}
    assert verdicts == {
        "TTFT p50": "better",
        "TTFT p95": "better",
        "completion p50": "better",
        "completion p95": "better",
        "speed p50": "better",
        "cost of a call": "no difference shown",
        "error rate": "worse",
        "completion rate": "better",
        "cost per completed task": "better",
    }
    change = found["TTFT p50"].change
    assert change is not None
    assert change.value == pytest.approx(0.5, rel=0.2)
    assert found["cost per completed task"].b == pytest.approx(0.04 / 36)
    (sentence,) = sentences(list(found.values()))
    assert sentence.startswith("auto: B is better in TTFT p50 (0.")
    assert "B is worse in error rate (+30.0 points)" in sentence


def test_a_run_is_no_different_from_itself() -> None:
    a = run("a", samples("auto", 1.0))
    assert {it.verdict for it in differences(a, a)} == {"no difference shown"}
    assert sentences(differences(a, a)) == ["auto: no difference is shown."]


def test_two_models_of_one_run() -> None:
    one = run("latest", samples("slow", 1.0), samples("fast", 0.4))
    found = differences(one, one, ("slow", "fast"))
    assert found[0].series == "slow → fast"
    assert found[0].verdict == "better"


def test_what_cannot_be_compared_says_why() -> None:
    a, b = run("a", samples("x", 1.0)), run("b", samples("y", 1.0))
    with pytest.raises(NotComparable, match="no model is in both runs"):
        differences(a, b)
    with pytest.raises(NotComparable, match="b has no model 'x', only y"):
        differences(a, b, ("x", "x"))
    with pytest.raises(NotComparable, match="one of `bench engine`"):
        differences(a, Run("b", "engine", "", {}, {}))
    with pytest.raises(NotComparable, match="keeps no samples"):
        differences(a, Run("b", "models", "", {}, {}))


def test_runs_of_other_kinds_are_compared_without_a_verdict() -> None:
    def of(rate: float) -> Run:
        return Run(
            "r",
            "gateway",
            "",
            {},
            {"figures": [{"contestant": "nginx", "calls_per_s": rate, "rss_mb": None}]},
        )

    (found,) = differences(of(100.0), of(150.0))
    assert (found.series, found.figure, found.verdict) == ("nginx", "calls_per_s", "too few samples")
    assert found.change is not None
    assert found.change.value == 1.5


def test_other_settings_are_named() -> None:
    a = run("a", samples("x", 1.0), prompts_hash="1", concurrency=1, machine={"cores": 2, "load": 0.1})
    b = run("b", samples("x", 1.0), prompts_hash="1", concurrency=8, machine={"cores": 2, "load": 1.9})
    assert conditions(a, b) == ["concurrency"]


def command(url: str, folder: Path, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli.main", "bench", *arguments, "--data-dir", str(folder)],
        env=os.environ
        | {"SPARKGATE_DATABASE_URL": url, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def stored(clean_database_url: str) -> list[str]:
    """Ids of two runs, the older first."""
    began = datetime(2026, 1, 1, tzinfo=UTC)
    ids = []
    for days, times in ((0, 1.0), (30, 0.5)):
        made = samples("auto", times)
        results = {"models": [], "samples": [asdict(sample) for sample in made]}
        settings = {"models": ["auto"], "runs": 40}
        ids.append(
            str(store.save(clean_database_url, "models", began + timedelta(days=days), settings, results))
        )
    return ids


def test_the_command_compares_stored_runs(clean_database_url: str, tmp_path: Path, stored: list[str]) -> None:
    code, out, err = command(clean_database_url, tmp_path, "compare", "latest~1", "latest")
    assert code == 0, err
    assert "auto: B is better in TTFT p50" in out
    code, out, err = command(
        clean_database_url, tmp_path, "compare", stored[1], f"auto@{stored[0]}", "--json"
    )
    assert (code, err.strip()) == (2, "name a model of both runs (MODEL@RUN), or of neither")
    code, out, err = command(clean_database_url, tmp_path, "compare", stored[1], stored[0], "--json")
    assert code == 0, err
    assert json.loads(out)["differences"][0]["verdict"] == "worse"
    code, out, err = command(clean_database_url, tmp_path, "compare", "latest~7", "latest")
    assert code == 2
    assert "there is no such run" in err


def test_files_are_compared_without_a_database(tmp_path: Path) -> None:
    for name, times in (("a.json", 1.0), ("b.json", 0.5)):
        value = {"models": [], "settings": {}, "samples": [asdict(it) for it in samples("auto", times)]}
        (tmp_path / name).write_text(json.dumps(value))
    away = "postgresql://nobody@/none?host=/nonexistent"
    code, out, err = command(away, tmp_path, "compare", "a.json", "b.json")
    assert code == 0, err
    assert "auto: B is better" in out
    (tmp_path / "c.json").write_text("[]")
    code, _, err = command(away, tmp_path, "compare", "a.json", "c.json")
    assert code == 2
    assert "c.json: not the JSON of a benchmark" in err


def test_runs_are_listed(clean_database_url: str, tmp_path: Path, stored: list[str]) -> None:
    code, out, err = command(clean_database_url, tmp_path, "list", "--limit", "1")
    assert code == 0, err
    assert stored[1] in out
    assert stored[0] not in out
    code, out, _ = command(clean_database_url, tmp_path, "list", "--kind", "engine")
    assert "No run is stored" in out
