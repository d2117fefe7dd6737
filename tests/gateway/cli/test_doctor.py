"""`doctor`: what it finds wrong, what it finds well, and that it changes nothing."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gateway.ledger import embedded
from tests.conftest import PostgresServer
from tests.gateway.cli.conftest import Cli


@pytest.fixture
def ports(folder: Path) -> dict[str, int]:
    """Three free ports, written into sparkgate.yaml."""
    probes = [socket.socket() for _ in range(3)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    found = dict(
        zip(
            ("port", "engine_port", "dashboard_port"),
            (probe.getsockname()[1] for probe in probes),
            strict=True,
        )
    )
    for probe in probes:
        probe.close()
    (folder / "sparkgate.yaml").write_text("".join(f"{name}: {port}\n" for name, port in found.items()))
    return found


@pytest.fixture
def squatter(ports: dict[str, int]) -> Iterator[int]:
    """A process that is not ours listens on the gateway's port and says nothing."""
    with socket.create_server(("127.0.0.1", ports["port"])):
        yield ports["port"]


@pytest.fixture
def gateway(ports: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Answers `/health` on the gateway's port with the value that a test puts into it."""
    health: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = json.dumps(health).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", ports["port"]), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield health
        server.shutdown()
        thread.join()


def findings(cli: Cli, *args: str) -> tuple[int, dict[str, tuple[str, str]]]:
    done = cli("doctor", "--json", *args)
    return done.exit_code, {
        check["name"]: (check["state"], check["finding"]) for check in json.loads(done.output)
    }


def test_a_fresh_folder_is_well_and_stays_untouched(cli: Cli, ports: dict[str, int], folder: Path) -> None:
    code, found = findings(cli)
    assert code == 0
    assert "wrong" not in {state for state, _ in found.values()}
    assert found["targets"] == ("ok", "engine")
    assert found[f"gateway port {ports['port']}"] == ("ok", "free")
    assert found["database"][1] == "embedded, not running; `sparkgate up` starts it"
    assert found["disk"][0] == "ok"
    assert [path.name for path in folder.iterdir()] == ["sparkgate.yaml"]


def test_a_port_held_by_another_process_is_wrong_and_named(cli: Cli, squatter: int) -> None:
    code, found = findings(cli)
    state, finding = found[f"gateway port {squatter}"]
    assert (code, state) == (1, "wrong")
    assert f"port {squatter} on 127.0.0.1 is taken by" in finding


def test_our_own_gateway_on_its_port_is_well(
    cli: Cli, gateway: dict[str, Any], ports: dict[str, int]
) -> None:
    name = f"gateway port {ports['port']}"
    gateway |= {"status": "ok", "policy": {"hash": "0", "error": None}}
    assert findings(cli)[1][name] == ("ok", "runs and is healthy")
    gateway |= {"status": "degraded", "policy": {"hash": "0", "error": "policy.yaml:1: oh"}}
    assert findings(cli)[1][name] == ("note", "runs, but says 'degraded': policy.yaml:1: oh")


def test_a_web_server_that_is_not_ours_is_in_the_way(
    cli: Cli, gateway: dict[str, Any], ports: dict[str, int]
) -> None:
    gateway |= {"hello": "world"}
    code, found = findings(cli)
    assert (code, found[f"gateway port {ports['port']}"][0]) == (1, "wrong")


def test_mistakes_in_the_files_are_wrong(cli: Cli, folder: Path) -> None:
    (folder / "sparkgate.yaml").write_text("prot: 1\n")
    code, found = findings(cli)
    assert code == 1
    assert found["configuration"] == ("wrong", "sparkgate.yaml:1: prot: unknown key; did you mean 'port'?")


def test_a_data_directory_that_cannot_be_is_wrong(cli: Cli, ports: dict[str, int], folder: Path) -> None:
    (folder / "file").write_text("")
    code, found = findings(cli, "--data-dir", "file")
    assert (code, found["data directory"][0]) == (1, "wrong")


def test_a_running_database_is_found(cli: Cli, ports: dict[str, int], postgres: PostgresServer) -> None:
    code, found = findings(cli, "--data-dir", str(postgres.data_dir))
    assert embedded.running_url(postgres.data_dir) is not None
    assert (code, found["database"][0]) == (0, "note")
    assert "no tables yet" in found["database"][1]


def test_a_server_that_does_not_answer_is_wrong(
    cli: Cli, ports: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARKGATE_DATABASE_URL", "postgresql://u:pw-secret@127.0.0.1:1/x")
    code, found = findings(cli)
    assert (code, found["database"][0]) == (1, "wrong")
    assert "pw-secret" not in found["database"][1]


def test_disabled_targets_are_notes_and_no_target_at_all_is_wrong(
    cli: Cli, ports: dict[str, int], folder: Path
) -> None:
    file = folder / "sparkgate.yaml"
    before = file.read_text()
    target = 'targets: [{name: cloud, kind: litellm, model: m, api_key: "${CLOUD_KEY}"}]\n'
    file.write_text(before + target)
    code, found = findings(cli)
    assert (code, found["target cloud"]) == (
        0,
        ("note", "disabled: the environment variable CLOUD_KEY is not set; set it, or take the target out"),
    )
    file.write_text(before + target + "engine: {enabled: false}\n")
    code, found = findings(cli)
    assert (code, found["targets"]) == (1, ("wrong", "every one of them is disabled"))


def test_targets_and_shadows_of_unknown_cost_are_notes(cli: Cli, ports: dict[str, int], folder: Path) -> None:
    file = folder / "sparkgate.yaml"
    target = '{name: trial, kind: openai, base_url: "http://127.0.0.1:1", model: nobodys, api_key: k}'
    file.write_text(f"{file.read_text()}targets: [{target}]\n")
    shadow = "{target: trial, share: 0.1, usd_per_day: 5}"
    (folder / "policy.yaml").write_text(f"version: 1\ndefaults: {{shadow: {shadow}}}\n")
    code, found = findings(cli)
    assert (code, found["target trial"][0], found["shadow"][0]) == (0, "note", "note")
    assert found["target trial"][1].startswith("its costs are unknown: no price is known")


def test_the_table_has_one_line_a_check(cli: Cli, ports: dict[str, int]) -> None:
    lines = cli("doctor").output.splitlines()
    assert lines[0] == "check\tstate\tfinding"
    assert lines[1].startswith("python\tok\t3.")
