"""`doctor` finds the commonest mistakes, each with what to do: in targets, the database, the data directory."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy
import yaml

from gateway.cli import checks, checks_data, checks_database, checks_targets, price_notes
from gateway.cli.checks_data import Check, State
from gateway.config.deployment import Deployment, EngineSettings
from gateway.ledger import migrate
from gateway.supervise.lock import DataDirLock
from gateway.supervise.orphans import ChildRecord
from tests.conftest import PostgresServer
from tests.gateway.cli.conftest import Cli


class Upstream:
    """Answers every GET with what a test sets; keeps the paths and keys it was asked with."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.status, self.body, self.headers = 200, b'{"data": [{"id": "m"}]}', dict[str, str]()
        self.pages = dict[str, str | None]()  # other answers than these, by path; None = there is none
        self.asked: list[tuple[str, str | None]] = []


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            key = self.headers.get("Authorization") or self.headers.get("x-api-key")
            known.asked.append((self.path, key))
            status, body = known.status, known.body
            if self.path in known.pages:
                page = known.pages[self.path]
                status, body = (404, b"") if page is None else (200, page.encode())
            self.send_response_only(status)
            given = {"Date": formatdate(usegmt=True)} | known.headers
            for name, value in (given | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        known = Upstream(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield known
        server.shutdown()
        thread.join()


def asked(upstream: Upstream, path: str = "/v1", **settings: Any) -> Check:
    target = {"name": "t", "kind": "openai", "base_url": upstream.url + path, "model": "m", "api_key": "k"}
    deployment = Deployment.model_validate({"targets": [target | settings]})
    (answer,) = checks_targets.ask(deployment, {}, 8090)
    return answer.check


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_a_target_that_answers_is_well_with_or_without_v1(upstream: Upstream, path: str) -> None:
    assert asked(upstream, path) == Check("target t", "ok", f"{upstream.url} answers")
    assert upstream.asked == [("/v1/models", "Bearer k")]


@pytest.mark.parametrize(
    ("told", "state", "finding"),
    [
        ("vllm:num_requests_running 1.0\n", "ok", "{url} answers"),
        ("", "note", "{url}/metrics: no figures of its kind, so that its load is not known"),
        (None, "note", "{url}/metrics: status 404, so that its load is not known"),
    ],
)
def test_a_server_that_does_not_tell_its_load_is_named(
    upstream: Upstream, told: str | None, state: State, finding: str
) -> None:
    upstream.pages["/metrics"] = told
    server = {"name": "t", "kind": "vllm", "url": upstream.url + "/v1", "model": "m", "api_key": "k"}
    (answer,) = checks_targets.ask(Deployment.model_validate({"targets": [server]}), {}, 8090)
    assert answer.check == Check("target t", state, finding.format(url=upstream.url))
    assert upstream.asked == [("/v1/models", "Bearer k"), ("/metrics", None)]


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/v1/chat/completions", "ends in /chat/completions, which is appended to it: write http"),
        ("/v1/v1", "ends in /v1 twice"),
    ],
)
def test_an_address_with_too_much_at_its_end_is_wrong_and_not_called(
    upstream: Upstream, path: str, hint: str
) -> None:
    check = asked(upstream, path)
    assert check.state == "wrong"
    assert hint in check.finding
    assert upstream.asked == []


@pytest.mark.parametrize(
    ("status", "body", "state", "said"),
    [
        (401, b"{}", "wrong", "refuses the key (401)"),
        (403, b"{}", "wrong", "refuses the key (403)"),
        (302, b"", "wrong", "redirects to https://new.example"),
        (200, b"<html>Welcome</html>", "wrong", "is it the address of an API?"),
        (200, b'{"data": [{"id": "other"}]}', "note", "the model m is not among those"),
        (200, b'{"data": []}', "ok", "answers"),
        (404, b"", "note", "nothing at"),
        (503, b"", "note", "answers with status 503"),
    ],
)
def test_what_a_target_answers_is_judged(
    upstream: Upstream, status: int, body: bytes, state: str, said: str
) -> None:
    upstream.status, upstream.body, upstream.headers = status, body, {"Location": "https://new.example"}
    check = asked(upstream)
    assert check.state == state
    assert said in check.finding


def test_a_target_that_nobody_serves_is_a_note(upstream: Upstream) -> None:
    upstream.url = "http://127.0.0.1:1"
    check = asked(upstream)
    assert check.state == "note"
    assert "cannot be reached" in check.finding


def test_anthropic_engines_and_litellm_are_asked_in_their_own_way_or_not_at_all(upstream: Upstream) -> None:
    assert asked(upstream, kind="anthropic").state == "ok"
    assert upstream.asked == [("/v1/models", "k")]
    listed = [
        {"name": "l", "kind": "litellm", "model": "m", "api_key": "k"},
        {"name": "e", "kind": "engine", "url": upstream.url},
        {"name": "own", "kind": "engine", "url": "http://127.0.0.1:8090"},
    ]
    answers = checks_targets.ask(Deployment.model_validate({"targets": listed}), {}, 8090)
    assert [answer.check for answer in answers] == [Check("target e", "ok", f"{upstream.url} answers")]


def test_a_clock_that_is_off_is_seen_by_what_others_say(upstream: Upstream, folder: Path, cli: Cli) -> None:
    def clock() -> tuple[str, str]:
        target = {"name": "t", "kind": "openai", "base_url": upstream.url, "model": "m"}
        (folder / "sparkgate.yaml").write_text(yaml.safe_dump({"targets": [target]}))
        found = {check["name"]: check for check in json.loads(cli("doctor", "--json").output)}
        return found["clock"]["state"], found["clock"]["finding"]

    assert clock() == ("ok", "within 5 s of target t")
    upstream.headers = {"Date": formatdate(time.time() + 60, usegmt=True)}
    state, finding = clock()
    assert state == "note"
    assert "behind that of target t" in finding
    upstream.headers = {"Date": formatdate(time.time() - 3600, usegmt=True)}
    state, finding = clock()
    assert state == "wrong"
    assert "ahead of that of target t; switch on time synchronisation" in finding


def test_a_shape_whose_targets_are_all_disabled_is_wrong(folder: Path, cli: Cli) -> None:
    (folder / "sparkgate.yaml").write_text(
        'targets: [{name: cloud, kind: litellm, model: m, api_key: "${CLOUD_KEY}"}]\n'
    )
    policy = (
        "shapes:\n  support: {candidates: [cloud]}\n  short_chat: {candidates: [cloud], fallback: [engine]}\n"
    )
    (folder / "policy.yaml").write_text(policy)
    found = {check["name"]: check for check in json.loads(cli("doctor", "--json").output)}
    assert found["policy support"]["state"] == "wrong"
    assert "only cloud may serve it" in found["policy support"]["finding"]
    assert "policy short_chat" not in found


def test_a_model_name_that_leads_to_disabled_targets_only_is_wrong(folder: Path, cli: Cli) -> None:
    listed = 'targets: [{name: cloud, kind: litellm, model: m, api_key: "${CLOUD_KEY}"}]\n'
    (folder / "sparkgate.yaml").write_text(
        listed + "models: {gpt: cloud, fast: [cloud, engine], any: auto}\n"
    )
    found = {check["name"]: check for check in json.loads(cli("doctor", "--json").output)}
    assert found["model name gpt"]["state"] == "wrong"
    assert "leads to cloud, disabled all" in found["model name gpt"]["finding"]
    assert not {"model name fast", "model name any"} & set(found)


def test_a_server_of_ones_own_that_is_charged_as_a_providers_is_a_note(
    upstream: Upstream, folder: Path, cli: Cli
) -> None:
    def note(**settings: Any) -> str:
        upstream.body = b'{"data": [{"id": "gpt-4o"}]}'
        target = {"name": "t", "kind": "openai", "base_url": upstream.url, "model": "gpt-4o", "api_key": "k"}
        (folder / "sparkgate.yaml").write_text(yaml.safe_dump({"targets": [target | settings]}))
        return " ".join(
            check["finding"]
            for check in json.loads(cli("doctor", "--json").output)
            if check["name"] == "target t"
        )

    assert "charged as a provider's, since litellm's list knows 'gpt-4o'" in note()
    assert "charged as" not in note(prices={"input_usd_per_mtok": 0, "output_usd_per_mtok": 0})
    assert price_notes._is_near("http://gpu-box:8000/v1")
    assert not price_notes._is_near("https://api.openai.com/v1")


@pytest.mark.parametrize("key", ["sk-1\n", "'sk-1'", 'sk-1"', " sk-1", "sk-1\u200b"])
def test_a_key_that_was_pasted_with_more_than_itself_is_wrong_and_not_sent(
    upstream: Upstream, key: str
) -> None:
    check = asked(upstream, api_key=key)
    assert (check.state, "a quote, a space or a line break" in check.finding) == ("wrong", True)
    assert upstream.asked == []


def test_a_target_that_is_the_gateway_itself_is_wrong_and_not_called() -> None:
    target = {
        "name": "t",
        "kind": "openai",
        "base_url": "http://localhost:8080/v1",
        "model": "m",
        "api_key": "k",
    }
    (answer,) = checks_targets.ask(Deployment.model_validate({"targets": [target]}), {}, 8090)
    assert answer.check.state == "wrong"
    assert "is this gateway itself" in answer.check.finding


def test_a_missing_compiler_is_found_where_it_would_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags\t: fpu amx_bf16 amx_tile amx_int8\n")
    monkeypatch.setenv("CXX", "no-such-compiler")
    (check,) = checks._compiler(EngineSettings(), cpuinfo)
    assert (check.state, "install g++" in check.finding) == ("note", True)
    (check,) = checks._compiler(EngineSettings(dtype="w8a16"), cpuinfo)
    assert check.state == "wrong"
    assert checks._compiler(EngineSettings(dtype="bfloat16"), cpuinfo) == []
    monkeypatch.setenv("CXX", "sh")
    assert checks._compiler(EngineSettings(), cpuinfo) == []
    monkeypatch.setenv("CXX", "no-such-compiler")
    cpuinfo.write_text("flags\t: fpu avx512f\n")
    assert checks._compiler(EngineSettings(), cpuinfo) == []
    assert checks._compiler(EngineSettings(), tmp_path / "none") == []


def test_a_role_that_may_not_write_is_found(clean_database_url: str, tmp_path: Path) -> None:
    def role(name: str) -> str:
        url = sqlalchemy.make_url(clean_database_url).set(username=name)
        found = database(url.render_as_string(hide_password=False), tmp_path)
        return found.get("database role", ("", "none"))[1]

    assert "database role" not in database(clean_database_url, tmp_path)
    name = "doctor_looks_at"
    execute(
        clean_database_url, f"CREATE ROLE {name} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}"
    )
    try:
        assert f"GRANT CREATE ON SCHEMA public TO {name}" in role(name)
        execute(clean_database_url, f"GRANT CREATE ON SCHEMA public TO {name}")
        assert "the tables are another role's" in role(name)
        execute(clean_database_url, f"ALTER ROLE {name} SET default_transaction_read_only = on")
        assert f"{name} may only read" in role(name)
    finally:
        execute(clean_database_url, f"DROP OWNED BY {name}; DROP ROLE {name}")


def database(url: str, data_dir: Path) -> dict[str, tuple[str, str]]:
    return {check.name: check[1:] for check in checks_database.database(url, data_dir, {})}


def test_a_database_of_another_encoding_is_found(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.create(migrated=False, encoding="SQL_ASCII")
    status, said = database(url, tmp_path)["database"]
    assert status == "wrong"
    assert "is encoded in SQL_ASCII" in said
    assert "ENCODING 'UTF8'" in said
    postgres.drop(url)


def test_tables_of_another_version_are_named_with_what_to_do(clean_database_url: str, tmp_path: Path) -> None:
    assert database(clean_database_url, tmp_path)["database"][0] == "ok"
    newest, older, *_ = migrate.revisions()
    migrate.downgrade(clean_database_url, older)
    state, finding = database(clean_database_url, tmp_path)["database"]
    assert state == "note"
    assert f"of revision {older}, {newest} is wanted; `sparkgate db upgrade`" in finding
    execute(clean_database_url, "UPDATE alembic_version SET version_num = '9999'")
    state, finding = database(clean_database_url, tmp_path)["database"]
    assert state == "wrong"
    assert "made by a newer sparkgate" in finding


def test_a_lost_first_key_is_found(
    clean_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPARKGATE_API_KEY", raising=False)

    def key() -> tuple[str, str]:
        return database(clean_database_url, tmp_path)["first key"]

    assert "no key is in force" in key()[1]
    row = f"(gen_random_uuid(), 'first', '{hashlib.sha256(b'sg-a').hexdigest()}', 'sg-a')"
    execute(clean_database_url, f"INSERT INTO api_keys (id, name, hash, prefix) VALUES {row}")
    assert "whoever has lost it: `sparkgate keys create NAME --scope admin`" in key()[1]
    file = tmp_path / "run" / "first_key"
    file.parent.mkdir()
    file.write_text("sg-b\n")
    assert "is not in force in this database" in key()[1]
    file.write_text("sg-a\n")
    assert key() == ("ok", str(file))
    execute(clean_database_url, "UPDATE api_keys SET revoked_at = now()")
    assert "no key is in force" in key()[1]


def test_a_first_key_that_is_gone_is_found_while_the_database_rests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPARKGATE_API_KEY", raising=False)
    assert checks_data.first_key(tmp_path, None) == []
    (tmp_path / "pg").mkdir()
    (check,) = checks_data.first_key(tmp_path, None)
    assert (check.state, "is gone" in check.finding) == ("note", True)
    monkeypatch.setenv("SPARKGATE_API_KEY", "sg-x")
    assert checks_data.first_key(tmp_path, None) == []


@pytest.mark.parametrize(("free_mb", "state"), [(50, "wrong"), (900, "note"), (1100, "ok")])
def test_a_disk_on_which_the_spool_has_no_room_is_found(tmp_path: Path, free_mb: int, state: str) -> None:
    assert checks_data.disk(tmp_path / "not" / "yet", 1024, free_mb * 1_000_000).state == state


def test_a_backlog_and_refused_records_are_found(tmp_path: Path) -> None:
    assert checks_data.spool(tmp_path, 1) == []
    spool = tmp_path / "spool"
    (spool / "quarantine").mkdir(parents=True)
    assert [check.state for check in checks_data.spool(tmp_path, 1)] == ["ok"]
    (spool / "a.ready").write_bytes(bytes(200_000))
    (check,) = checks_data.spool(tmp_path, 1)
    assert (check.state, "does the drain run" in check.finding) == ("note", True)
    (spool / "b.ready").write_bytes(bytes(800_000))
    (spool / "quarantine" / "c.jsonl").write_text("{}\n")
    full, refused = checks_data.spool(tmp_path, 1)
    assert (full.state, "new calls are refused" in full.finding) == ("wrong", True)
    assert "1 files of records that the database refused" in refused.finding


def test_parts_that_are_dead_are_named_with_their_logs(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert checks_data.parts(tmp_path, 1) == []
    with DataDirLock(run / "up.lock"):
        record = ChildRecord(run / "parts.json")
        record.add("gateway", os.getpid())
        record.add("drain", os.getpid())
        assert checks_data.parts(tmp_path, 1) == [Check("parts", "ok", "gateway, drain")]
        (check,) = checks_data.parts(tmp_path, 2)
        assert check.state == "wrong"
        assert "not running: gateway-0, gateway-1;" in check.finding
        kept = json.loads((run / "parts.json").read_text())
        kept[1]["created_at"] = psutil.Process().create_time() - 1000  # another process that had this pid
        (run / "parts.json").write_text(json.dumps(kept))
        (check,) = checks_data.parts(tmp_path, 1)
        assert "not running: drain; why, is at the end of" in check.finding
        assert str(tmp_path / "logs" / "drain.log") in check.finding
    (check,) = checks_data.parts(tmp_path, 1)
    assert (check.state, "left over from a killed start: gateway" in check.finding) == ("note", True)


def test_a_model_with_damaged_files_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "org--m"
    assert checks_data.model("org/m", tmp_path) == Check(
        "model", "note", "org/m is fetched at the first start"
    )
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert "has no weights" in checks_data.model("org/m", tmp_path).finding
    head = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    whole = struct.pack("<Q", len(head)) + head + bytes(8)
    weights = folder / "model.safetensors"
    weights.write_bytes(whole)
    assert checks_data.model("org/m", tmp_path).state == "ok"
    for damaged in (whole[:-1], whole[:20], b"", b"<html>" * 10):
        weights.write_bytes(damaged)
        check = checks_data.model("org/m", tmp_path)
        assert check.state == "wrong"
        assert "cut short or damaged; remove the folder" in check.finding
    weights.write_bytes(whole)
    (folder / "config.json").write_text("{")
    assert "config.json is no JSON" in checks_data.model("org/m", tmp_path).finding
    assert checks_data.model(str(tmp_path), tmp_path).state == "wrong"


def test_the_real_model_is_whole(model_data_dir: Path) -> None:
    assert checks_data.model(checks_data.BUNDLED_MODEL, model_data_dir).state == "ok"


@pytest.fixture
def model_data_dir() -> Path:
    root = Path(__file__).resolve().parents[3]
    path = Path(os.environ.get("SPARKGATE_TEST_DIR", root / ".sparkgate-test"))
    if not (path / "models" / checks_data.BUNDLED_MODEL / "config.json").is_file():
        pytest.skip("the bundled model is not fetched yet")
    return path


def execute(url: str, statement: str) -> None:
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(statement))
    engine.dispose()
