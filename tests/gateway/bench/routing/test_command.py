"""`sparkgate bench routing` from the command line to its output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.bench import store
from gateway.cli.main import build_app

RUN = ["bench", "routing", "--scenarios", "calm", "--seeds", "1", "--workers", "1"]


def test_a_run_is_told_as_json_and_as_a_picture_and_stored(
    tmp_path: Path, clean_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARKGATE_DATABASE_URL", clean_database_url)
    picture = tmp_path / "routing.svg"
    ended = CliRunner().invoke(
        build_app(), [*RUN, "--strategies", "random", "--plot", str(picture), "--json"]
    )
    assert ended.exit_code == 0, ended.output
    told = json.loads(ended.stdout)
    (kept,) = store.find(clean_database_url, "latest", "routing")
    assert (kept["results"]["rows"], kept["settings"]["seeds"]) == (told["rows"], 1)
    assert told["stored"]
    assert [row["strategy"] for row in told["rows"]] == ["oracle", "random"]
    assert [claim["holds"] for claim in told["claims"]] == [True]
    assert "<title>random: " in picture.read_text()


def test_unknown_names_are_refused() -> None:
    for option in ("--scenarios", "--strategies"):
        ended = CliRunner().invoke(build_app(), [*RUN, option, "random,nothing"])
        assert ended.exit_code != 0
        assert "'nothing'" in str(ended.exception), ended.output
