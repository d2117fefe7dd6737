"""`init`, `schema`, `policy check` and `policy explain`: commands about the two files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli.output import Refused
from gateway.config.mistakes import ConfigError
from tests.gateway.cli.conftest import Cli, Process

UPSTREAM = """\
targets:
  - {name: cloud, kind: openai, base_url: "https://api.example/v1", model: m, api_key: "${CLOUD_KEY}"}
models: {gpt-4o: auto, big: cloud}
unknown_model: reject
"""


def test_init_writes_two_files_that_are_right(cli: Cli, folder: Path) -> None:
    assert cli("init").exit_code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["policy.yaml", "sparkgate.yaml"]
    checked = cli("policy", "check", "--json")
    assert checked.exit_code == 0
    assert json.loads(checked.output)["ok"] is True


def test_init_never_touches_a_file_that_exists(cli: Cli, folder: Path) -> None:
    (folder / "policy.yaml").write_text("version: 1\n")
    assert json.loads(cli("init", "--json").output) == {"sparkgate.yaml": "written", "policy.yaml": "kept"}
    assert (folder / "policy.yaml").read_text() == "version: 1\n"


@pytest.mark.parametrize("file", ["deployment", "policy"])
def test_schema_prints_a_json_schema(cli: Cli, file: str) -> None:
    schema = json.loads(cli("schema", file).output)
    assert schema["$schema"].startswith("https://json-schema.org/")


def test_check_without_files_speaks_of_the_defaults(cli: Cli) -> None:
    done = cli("policy", "check")
    assert done.exit_code == 0
    assert done.output.splitlines()[0] == "defaults: right; targets: engine"


def test_check_lists_the_mistakes_of_both_files_and_exits_1(process: Process, folder: Path) -> None:
    (folder / "sparkgate.yaml").write_text("prot: 1\nworkers: 0\nunknown_model: maybe\n")
    (folder / "mine.yaml").write_text("shapes:\n  short_chat: {objective: fast}\nexplore: 1\nrule: []\n")
    done = process("policy", "check", "mine.yaml")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "sparkgate.yaml:1: prot: unknown key; did you mean 'port'?",
        "sparkgate.yaml:2: workers: should be greater than or equal to 1, not 0",
        "sparkgate.yaml:3: unknown_model: 'maybe' is not one of auto, reject",
        "mine.yaml:2: shapes.short_chat.objective: 'fast' is not one of ttft, speed, completion_p95, "
        "cost_per_completed_task",
        "mine.yaml:3: explore: unknown key; known: version, shapes, defaults, rules",
        "mine.yaml:4: rule: unknown key; did you mean 'rules'?",
    ]


def test_check_as_json_carries_file_line_key_and_message(cli: Cli, folder: Path) -> None:
    (folder / "policy.yaml").write_text("defaults:\n  fallback: [nobody]\n")
    done = cli("policy", "check", "--json")
    assert done.exit_code == 1
    assert json.loads(done.output)["mistakes"] == [
        {
            "file": "policy.yaml",
            "line": 2,
            "key": "defaults.fallback[0]",
            "message": "no target is called 'nobody'; known: engine",
        }
    ]


def test_check_names_disabled_targets(cli: Cli, folder: Path) -> None:
    (folder / "sparkgate.yaml").write_text(UPSTREAM)
    assert "cloud (disabled: the environment variable CLOUD_KEY is not set)" in cli("policy", "check").output


def test_check_warns_of_shadows_whose_costs_nobody_knows(cli: Cli, folder: Path) -> None:
    target = '{name: trial, kind: openai, base_url: "http://127.0.0.1:1", model: nobodys, api_key: k%s}\n'
    (folder / "sparkgate.yaml").write_text("targets:\n  - " + target % "")
    shadow = "{target: trial, share: 0.1, usd_per_day: 5}"
    (folder / "policy.yaml").write_text(f"version: 1\nshapes:\n  support: {{shadow: {shadow}}}\n")
    done = json.loads(cli("policy", "check", "--json").output)
    assert done["ok"] is True
    (warning,) = done["warnings"]
    assert warning.startswith(
        "support: the shadow's usd_per_day cannot be held, since of target 'trial' no price"
    )
    assert f"Warning: {warning}" in cli("policy", "check").output
    (folder / "sparkgate.yaml").write_text(
        "targets:\n  - " + target % ", prices: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}"
    )
    assert json.loads(cli("policy", "check", "--json").output)["warnings"] == []


def test_explain_says_who_is_tried_in_which_order_and_who_is_not(cli: Cli, folder: Path) -> None:
    (folder / "sparkgate.yaml").write_text(UPSTREAM)
    (folder / "policy.yaml").write_text("rules: [{when: {header.x-app: desk}, shape: support}]\n")
    args = ("policy", "explain", "--model", "gpt-4o", "--header", "X-App=desk", "--json")
    decision = json.loads(cli(*args, env={"CLOUD_KEY": "sk-1"}).output)
    assert (decision["shape"], decision["shape_source"]) == ("support", "rule")
    assert {candidate["target"] for candidate in decision["candidates"]} == {"engine", "cloud"}
    without_key = json.loads(cli(*args).output)
    assert [candidate["target"] for candidate in without_key["candidates"]] == ["engine"]
    assert without_key["rejections"][0]["target"] == "cloud"
    assert "CLOUD_KEY" in without_key["rejections"][0]["reason"]


def test_explain_knows_what_the_engine_cannot_do(cli: Cli) -> None:
    able = cli("policy", "explain", "--tools")
    assert able.exit_code == 0
    assert "agent_loop (structural)" in able.output
    assert "No target can serve this call." not in able.output
    unable = cli("policy", "explain", "--tools", "--images")
    assert unable.exit_code == 0
    assert "No target can serve this call." in unable.output


def test_explain_pins_a_mapped_model(cli: Cli, folder: Path) -> None:
    (folder / "sparkgate.yaml").write_text(UPSTREAM)
    decision = json.loads(cli("policy", "explain", "--model", "big", "--json", env={"CLOUD_KEY": "k"}).output)
    assert [candidate["target"] for candidate in decision["candidates"]] == ["cloud"]


def test_explain_refuses_what_the_gateway_would_refuse(cli: Cli, folder: Path) -> None:
    (folder / "sparkgate.yaml").write_text(UPSTREAM)
    unknown = cli("policy", "explain", "--model", "gpt-9").exception
    assert isinstance(unknown, Refused)
    assert "the model 'gpt-9' is not known" in str(unknown)
    assert isinstance(cli("policy", "explain", "--shape", "poetry").exception, Refused)
    assert isinstance(cli("policy", "explain", "--header", "nonsense").exception, Refused)


def test_explain_needs_files_that_are_right(cli: Cli, folder: Path) -> None:
    (folder / "policy.yaml").write_text("explore: 1\n")
    assert isinstance(cli("policy", "explain").exception, ConfigError)
