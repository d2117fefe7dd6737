"""`policy explain` of request files, `policy replay`, and the versions of the policy: in a real database, beside a real
gateway."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import sqlalchemy

from gateway.cli.output import Refused
from gateway.config.load import load_policy
from gateway.config.mistakes import ConfigError
from gateway.ledger import tables
from gateway.ledger.database import create_engine
from gateway.ledger.policies import NoSuchVersion
from tests.gateway.cli.conftest import Cli, Process
from tests.gateway.conftest import HELLO, KEY, Gateway, Run
from tests.gateway.control.recorded_traffic import Truth, record, traffic

DEPLOYMENT = """\
engine: {enabled: false}
targets:
  - {name: fast, kind: openai, base_url: "http://127.0.0.1:1/v1", model: m, api_key: k}
  - {name: slow, kind: openai, base_url: "http://127.0.0.1:1/v1", model: m, api_key: k}
"""
EXPLORING = "version: 1\ndefaults: {objective: completion_p95, explore: 0.3}\n"
ONLY_FAST = "version: 1\ndefaults: {candidates: [fast]}\n"
CHAT = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


@pytest.fixture
def server(clean_database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A migrated database of a server, set as the CLI's, and a deployment of two targets."""
    monkeypatch.setenv("SPARKGATE_DATABASE_URL", clean_database_url)
    (folder / "sparkgate.yaml").write_text(DEPLOYMENT)
    return clean_database_url


def refusal(cli: Cli, *args: str) -> str:
    exception = cli(*args).exception
    assert isinstance(exception, Refused | ConfigError | NoSuchVersion), exception
    return str(exception)


@pytest.mark.parametrize(
    ("endpoint", "body", "shape"),
    [
        ("/v1/chat/completions", CHAT, "classification"),
        ("/v1/chat/completions", CHAT | {"tools": [{"type": "function"}]}, "agent_loop"),
        ("/v1/messages", CHAT, "classification"),
        ("/v1/responses", {"model": "auto", "input": "hello", "max_output_tokens": 4}, "classification"),
        ("/v1/embeddings", {"model": "auto", "input": "hello"}, "embedding"),
        ("/v1/completions", {"model": "auto/reasoning", "prompt": "hello"}, "reasoning"),
    ],
)
def test_a_request_file_is_read_as_its_surface_reads_it(
    cli: Cli, folder: Path, endpoint: str, body: dict[str, Any], shape: str
) -> None:
    (folder / "request.json").write_text(json.dumps(body))
    done = cli("policy", "explain", "request.json", "--endpoint", endpoint, "--json")
    found = json.loads(done.output)
    assert (found["shape"], found["is_learnt"], found["query"]["endpoint"]) == (shape, False, endpoint)


def test_the_table_shows_every_part_of_the_scores(cli: Cli, folder: Path) -> None:
    (folder / "sparkgate.yaml").write_text(DEPLOYMENT)
    (folder / "policy.yaml").write_text("defaults: {candidates: [slow], fallback: [fast]}\n")
    (folder / "request.json").write_text(json.dumps(CHAT))
    shown = cli("policy", "explain", "request.json", "--header", "X-Task-Shape=support").output
    lines = shown.splitlines()
    assert lines[0] == "shape      support (declared)"
    table = {row[0]: row[1:] for row in (line.split("\t") for line in lines if "\t" in line)}
    assert table[""] == ["1. slow", "2. fast"]
    assert table["role"] == ["candidate", "fallback"]
    assert (table["in flight"], table["samples (decayed)"]) == (["0", "-"], ["0", "-"])
    assert float(table["score"][0]) >= float(table["TTFT, s"][0]) > 0
    parts = (
        "a token, s",
        "completion, s",
        "completion p95, s",
        "cost, USD",
        "success share",
        "crowding",
        "misses",
    )
    assert set(parts) <= set(table)
    assert "nothing has been measured here" in shown


def test_experiments_and_shadows_are_left_to_chance_only_where_a_draw_is_given(
    cli: Cli, folder: Path
) -> None:
    (folder / "sparkgate.yaml").write_text(DEPLOYMENT)
    (folder / "policy.yaml").write_text(
        "defaults: {candidates: [slow], shadow: {target: fast, share: 0.5}}\n"
    )
    usual, drawn = (
        json.loads(cli("policy", "explain", "--json", *draw).output) for draw in ((), ("--draw", "0"))
    )
    assert (usual["shadow"], drawn["shadow"]) == (None, "fast")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[1]", "a JSON object"),
        ("{}", "'model' must be a non-empty string"),
        ('{"model": "auto"}', "'messages' must be a non-empty list"),
        ('{"model": "auto", "messages": [1]}', "messages[0] must be an object"),
    ],
)
def test_a_request_that_cannot_be_one_is_refused(cli: Cli, folder: Path, text: str, words: str) -> None:
    (folder / "request.json").write_text(text)
    assert words in refusal(cli, "policy", "explain", "request.json")


def test_a_request_file_and_a_description_exclude_each_other(cli: Cli, folder: Path) -> None:
    (folder / "request.json").write_text(json.dumps(CHAT))
    assert "the request file says model" in refusal(
        cli, "policy", "explain", "request.json", "--model", "fast"
    )
    assert "no API is served at '/v9'" in refusal(
        cli, "policy", "explain", "request.json", "--endpoint", "/v9"
    )


def test_bad_files_never_show_a_traceback(process: Process, folder: Path) -> None:
    (folder / "binary").write_bytes(b"\xff\xfe\x00")
    (folder / "bad.yaml").write_text("defaults: {explore: 2}\n")
    for args, words in (
        (("explain", "absent.json"), "No such file"),
        (("explain", "binary"), "is not UTF-8"),
        (("explain", "."), "Is a directory"),
        (("replay", "--policy", "absent.yaml"), "there is no such file"),
        (("replay", "--policy", "bad.yaml"), "bad.yaml:1: defaults.explore"),
        (("publish", "bad.yaml"), "bad.yaml:1: defaults.explore"),
    ):
        done = process("policy", *args)
        assert (done.returncode, words in done.stderr, "Traceback" in done.stderr) == (2, True, False), (
            done.stderr
        )


def test_the_running_gateway_is_asked_for_what_it_has_learnt(
    cli: Cli, folder: Path, with_gateway: Callable[..., Run]
) -> None:
    (folder / "request.json").write_text(json.dumps(HELLO))
    (folder / "new.yaml").write_text("version: 1\ndefaults: {candidates: [b]}\n")
    (folder / "wrong.yaml").write_text("version: 1\ndefaults: {candidates: [nobody]}\n")

    async def test(gateway: Gateway) -> None:
        for _ in range(3):
            await gateway.post(HELLO)

        def asked(*more: str) -> Any:
            return cli("policy", "explain", "request.json", "--url", gateway.url, "--api-key", KEY, *more)

        found = json.loads((await asyncio.to_thread(asked, "--json")).output)
        assert found["is_learnt"] is True
        assert sum(it["prediction"]["weight"] for it in found["candidates"]) > 1.0
        assert "learnt of its targets" in (await asyncio.to_thread(asked)).output
        tried = await asyncio.to_thread(asked, "--policy", "new.yaml", "--json")
        assert [it["target"] for it in json.loads(tried.output)["candidates"]] == ["b"]
        refused = (await asyncio.to_thread(asked, "--policy", "wrong.yaml")).exception
        assert isinstance(refused, Refused)
        assert "no target is called 'nobody'" in str(refused)
        assert len(gateway.exchanges()) == 3

    with_gateway(targets=("a", "b"))(test)


def test_a_gateway_that_was_named_and_does_not_answer_is_an_error(cli: Cli, folder: Path) -> None:
    args = ("policy", "explain", "--url", "http://127.0.0.1:1", "--api-key", "sg-x")
    assert "no answer from http://127.0.0.1:1" in refusal(cli, *args)
    assert "no API key" in refusal(cli, *args[:4])


def test_versions_are_published_listed_compared_and_rolled_back(cli: Cli, server: str, folder: Path) -> None:
    assert cli("policy", "versions").output == "No policy was published yet.\n"
    assert "no policy was published yet" in refusal(cli, "policy", "show")
    (folder / "one.yaml").write_text(EXPLORING)
    (folder / "two.yaml").write_text(ONLY_FAST)
    one, two = (
        json.loads(cli("policy", "publish", f"{name}.yaml", "--json").output)["hash"]
        for name in ("one", "two")
    )
    listed = json.loads(cli("policy", "versions", "--json").output)
    assert [(it["hash"], it["active"], it["source"]) for it in listed] == [
        (two, True, "cli"),
        (one, False, "cli"),
    ]
    assert cli("policy", "show").stdout == ONLY_FAST
    assert cli("policy", "show", one[:5]).stdout == EXPLORING
    difference = cli("policy", "diff", one).output.splitlines()
    assert difference[:2] == [f"--- {one}", f"+++ {two}"]
    assert "+defaults: {candidates: [fast]}" in difference
    as_json = json.loads(cli("policy", "diff", one, "--json").output)
    assert as_json == {"old": one, "new": two, "diff": difference}

    assert cli("policy", "rollback", one).stdout.startswith(f"Version {one} is published again")
    assert cli("policy", "show").stdout == EXPLORING
    assert cli("policy", "versions").output.splitlines()[1].split("\t")[2:4] == ["rollback", "in force"]
    assert "in force already" in cli("policy", "rollback", one).output
    assert len(json.loads(cli("policy", "versions", "--json").output)) == 3
    assert "no version of the policy is 'zzz'" in refusal(cli, "policy", "rollback", "zzz")


def test_an_old_version_is_checked_against_the_targets_of_today(cli: Cli, server: str, folder: Path) -> None:
    (folder / "policy.yaml").write_text(ONLY_FAST)
    gone = json.loads(cli("policy", "publish", "policy.yaml", "--json").output)["hash"]
    (folder / "policy.yaml").write_text("version: 1\n")
    cli("policy", "publish", "policy.yaml")
    (folder / "sparkgate.yaml").write_text(DEPLOYMENT.replace("name: fast", "name: quick"))
    assert "no target is called 'fast'" in refusal(cli, "policy", "rollback", gone)


def test_recorded_calls_are_replayed_in_tables_json_and_a_picture(
    cli: Cli, server: str, folder: Path
) -> None:
    policy = load_policy(EXPLORING, "policy.yaml", None)
    truths = {"fast": Truth(0.2, 1.0), "slow": Truth(0.6, 3.0)}
    record(server, folder, traffic(policy, truths, 200, start_s=time.time() - 3000))
    (folder / "new.yaml").write_text(ONLY_FAST)
    args = ("policy", "replay", "--policy", "new.yaml")
    found = json.loads(cli(*args, "--json").stdout)
    assert (found["recorded_calls"], found["all"]["unknown"]) == (200, 0)
    assert found["all"]["moved"] > 0
    shown = cli(*args, "--plot", "replay.svg").stdout
    assert "support\tslow\tfast\t" in shown
    assert any(line.startswith("all\tcompletion p95\t") for line in shown.splitlines())
    assert "cannot be told from the ledger" in shown
    assert "support" in "".join(ElementTree.parse(folder / "replay.svg").getroot().itertext())
    recent = json.loads(cli(*args, "--since", "10m", "--json").stdout)
    assert recent["recorded_calls"] < 200


def test_a_target_that_the_gateway_lacks_a_key_for_is_not_replayed_to(
    cli: Cli, server: str, folder: Path
) -> None:
    truths = {"fast": Truth(0.2, 1.0), "slow": Truth(0.6, 3.0)}
    policy = load_policy(EXPLORING, "policy.yaml", None)
    record(server, folder, traffic(policy, truths, 20, start_s=time.time() - 3000))
    (folder / "new.yaml").write_text("version: 1\n")
    engine = create_engine(server)
    with engine.begin() as connection:
        row = {"name": "fast", "kind": "openai", "disabled_reason": "the environment variable K is not set"}
        connection.execute(sqlalchemy.insert(tables.targets).values(row))
    engine.dispose()
    found = json.loads(cli("policy", "replay", "--policy", "new.yaml", "--json").stdout)
    assert {new for _, new, _ in found["all"]["moves"]} == {"slow"}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--since", "yesterday"), "--since wants"),
        (("--since", "1h", "--until", "2h"), "is not before"),
        (("--since", "99999999999d"), "--since wants"),
        (("--plot", "replay.png"), "ends in .svg"),
        (("--plot", "absent/replay.svg"), "no folder"),
    ],
)
def test_replays_that_make_no_sense_are_refused(
    cli: Cli, server: str, folder: Path, args: tuple[str, ...], words: str
) -> None:
    (folder / "new.yaml").write_text(ONLY_FAST)
    assert words in refusal(cli, "policy", "replay", "--policy", "new.yaml", *args)


def test_a_replay_under_a_policy_of_unknown_targets_is_refused(cli: Cli, server: str, folder: Path) -> None:
    (folder / "new.yaml").write_text("defaults: {candidates: [fats]}\n")
    words = "new.yaml:1: defaults.candidates[0]: no target is called 'fats'; did you mean 'fast'?"
    assert refusal(cli, "policy", "replay", "--policy", "new.yaml") == words


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "shapes:\n  short_caht: {}\n",
            "2: shapes.short_caht: there is no task shape 'short_caht'; did you mean 'short_chat'?",
        ),
        (
            "shapes:\n  short_chat: {objectve: ttft}\n",
            "2: shapes.short_chat.objectve: unknown key; did you mean 'objective'?",
        ),
        (
            "defaults: {objective: tftt}\n",
            "1: defaults.objective: 'tftt' is not one of ttft, speed, completion_p95, cost_per_completed_task; "
            "did you mean 'ttft'?",
        ),
        (
            "defaults: {candidates: fast}\n",
            "1: defaults.candidates: should be a list, not 'fast'; write [fast]",
        ),
        (
            "defaults: {candidates: [fats]}\n",
            "1: defaults.candidates[0]: no target is called 'fats'; did you mean 'fast'?",
        ),
        ("defaults:\n", "1: defaults: should be keys and values, not nothing"),
        (
            "defaults: {slo: {ttft_p95_s: 1500ms}}\n",
            "1: defaults.slo.ttft_p95_s: should be a valid number, not '1500ms'",
        ),
        (
            "defaults: {slo: {timeout_rate: 5}}\n",
            "1: defaults.slo.timeout_rate: should be less than or equal to 1, not 5",
        ),
        ("defaults:\n\texplore: 0\n", "2: this is not YAML: a tab; indent with spaces"),
        (
            "rules: [{when: {workflow: *}, shape: support}]\n",
            "1: this is not YAML: a value that begins with * has to be in quotes",
        ),
        (
            "rules:\n  - {when: {headers.x-app: a}, shape: support}\n",
            "2: rules[0].when.headers.x-app: unknown condition; known: header.<name>, metadata.<key>, model, caller, "
            "endpoint, workflow; did you mean 'header.x-app'?",
        ),
        ("rules:\n  - {when: {model: a}}\n", "2: rules[0].shape: is missing"),
        ("version: 1\nversion: 1\n", "2: version: given twice; the first is on line 1"),
        (
            "defaults: {explore: yes}\n",
            "1: defaults.explore: should be a number; yes, no, on and off are true and false in YAML",
        ),
        ("shapes: {general: {}\n", "2: this is not YAML: expected ',' or '}', but got '<stream end>'"),
        ("- general\n", "1: the file should hold keys and values, like `key: value`"),
    ],
)
def test_a_mistake_is_said_with_its_line_its_key_and_what_was_meant(
    cli: Cli, folder: Path, text: str, said: str
) -> None:
    (folder / "sparkgate.yaml").write_text(DEPLOYMENT)
    (folder / "policy.yaml").write_text(text)
    done = cli("policy", "check")
    assert (done.exit_code, done.stderr.splitlines()) == (1, [f"policy.yaml:{said}"])
