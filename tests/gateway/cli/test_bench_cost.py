"""`bench engine --cost` without a measurement."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.bench import store
from gateway.cli.output import Refused
from tests.gateway.cli.conftest import Cli

GIVEN = ("bench", "engine", "--cost", "--usd-per-hour", "25", "--tokens-per-s", "4000,6680")
PRICED = """\
engine: {enabled: false}
targets:
  - {name: cloud, kind: openai, base_url: "http://127.0.0.1:1", model: m, api_key: k,
     prices: {input_usd_per_mtok: 0.5, output_usd_per_mtok: 1.0}}
"""


def test_the_published_example_to_the_cent(cli: Cli) -> None:
    assert [line.split("\t") for line in cli(*GIVEN, "--utilisation", "1,0.25").output.splitlines()] == [
        ["machine", "tokens/s", "USD/h", "USD/M tokens, 100% used", "USD/M tokens, 25% used"],
        ["4,000 tokens/s", "4,000", "25.00", "1.74", "6.94"],
        ["6,680 tokens/s", "6,680", "25.00", "1.04", "4.16"],
    ]


def test_targets_and_listed_models_are_set_beside(cli: Cli, folder: Path) -> None:
    (folder / "sparkgate.yaml").write_text(PRICED)
    beside = ("--beside", "cloud,gpt-4o", "--input-per-output", "2", "--json")
    found = json.loads(cli(*GIVEN, *beside).output)
    assert [it["name"] for it in found["upstreams"]] == ["cloud", "gpt-4o"]
    slow, fast = found["upstreams"][0]["break_even"]
    assert found["upstreams"][0]["usd_per_mtok"] == 2.0
    assert slow["tokens_per_day"] == fast["tokens_per_day"] == pytest.approx(300e6)
    assert (slow["utilisation"], fast["utilisation"]) == (
        pytest.approx(300 / 345.6),
        pytest.approx(300 / 577.152),
    )
    assert "300.0 M tokens a day (87% used)" in cli(*GIVEN, *beside[:-1]).output


def test_a_stored_run_gives_the_rates(
    cli: Cli, clean_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARKGATE_DATABASE_URL", clean_database_url)
    figures = [{"variant": "auto", "kind": "chat", "streams": 8, "decode_tokens_per_s": 4000.0}]
    run_id = store.save(clean_database_url, "engine", datetime.now(UTC), {}, {"figures": figures})
    for name in ("latest", str(run_id)):
        told = cli("bench", "engine", "--cost", "--usd-per-hour", "25", "--run", name, "--utilisation", "1")
        assert told.output.splitlines()[1] == "auto, chat × 8\t4,000\t25.00\t1.74"
    refused = cli("bench", "engine", "--cost", "--run", "0123").exception
    assert isinstance(refused, Refused)
    assert "no such run" in str(refused)


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("--tokens-per-s", "4000"), "only beside --cost"),
        (("--cost", "--tokens-per-s", "fast"), "'fast' is not a list of numbers above 0"),
        (("--cost", "--tokens-per-s", "0"), "above 0"),
        (("--cost", "--tokens-per-s", "1", "--run", "latest"), "give one of them"),
        (("--cost", "--tokens-per-s", "1", "--utilisation", "1,2"), "no shares of the time"),
        (("--cost", "--tokens-per-s", "1", "--beside", "nobodys-model"), "no target of a known price"),
        (
            ("--cost", "--beside", "nobodys-model"),
            "no target of a known price",
        ),  # before anything is measured
    ],
)
def test_what_cannot_be_reckoned_is_refused(cli: Cli, args: tuple[str, ...], why: str) -> None:
    refused = cli("bench", "engine", *args).exception
    assert isinstance(refused, Refused)
    assert why in str(refused)


def test_without_any_price_of_an_hour_it_must_be_given(cli: Cli, folder: Path) -> None:
    (folder / "sparkgate.yaml").write_text("engine: {cost_per_hour_usd: null}\n")
    refused = cli("bench", "engine", "--cost", "--tokens-per-s", "10").exception
    assert "--usd-per-hour: missing" in str(refused)
