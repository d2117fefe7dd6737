"""`tasks outcome`: what it asks of a gateway over HTTP, and how refusals read."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.errors import message_of
from tests.gateway.cli.conftest import Cli


@dataclass
class Gateway:
    """A loopback server that remembers what it was asked and answers as told."""

    port: int = 0
    status: int = 200
    answer: Any = field(default_factory=dict)
    asked: list[tuple[str, str | None, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    state = Gateway()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.asked.append((self.path, self.headers["Authorization"], body))
            answer = json.dumps(state.answer).encode()
            self.send_response(state.status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield state
        server.shutdown()
        thread.join()


def test_the_outcome_is_posted_with_the_key_of_the_environment(cli: Cli, gateway: Gateway) -> None:
    gateway.answer = {"object": "task.outcome", "status": "completed"}
    args = ("tasks", "outcome", "a/b c", "completed", "--score", "0.5", "--url", gateway.url)
    done = cli(*args, env={"SPARKGATE_API_KEY": "sg-mine"})
    assert (done.exit_code, done.output) == (0, "Task 'a/b c' is recorded as completed.\n")
    path = "/v1/tasks/a%2Fb%20c/outcome"
    assert gateway.asked == [(path, "Bearer sg-mine", {"status": "completed", "score": 0.5})]
    as_json = cli(*args, "--json", env={"SPARKGATE_API_KEY": "sg-mine"})
    assert json.loads(as_json.output) == gateway.answer
    cli(*args, "--api-key", "sg-other", env={"SPARKGATE_API_KEY": "sg-mine"})
    assert [key for _, key, _ in gateway.asked] == ["Bearer sg-mine"] * 2 + ["Bearer sg-other"]


def test_the_gateway_is_found_in_the_file_and_the_key_in_the_data_directory(
    cli: Cli, gateway: Gateway, folder: Path
) -> None:
    (folder / "sparkgate.yaml").write_text(f"host: 0.0.0.0\nport: {gateway.port}\n")
    (folder / ".sparkgate" / "run").mkdir(parents=True)
    (folder / ".sparkgate" / "run" / "first_key").write_text("sg-first\n")
    assert cli("tasks", "outcome", "t", "failed", "--workflow", "w").exit_code == 0
    assert gateway.asked == [
        ("/v1/tasks/t/outcome", "Bearer sg-first", {"status": "failed", "workflow": "w"})
    ]


def test_the_gateways_own_reason_is_shown(cli: Cli, gateway: Gateway) -> None:
    gateway.status, gateway.answer = 401, {"error": {"message": "this key is not known"}}
    done = cli("tasks", "outcome", "t", "failed", "--url", gateway.url, env={"SPARKGATE_API_KEY": "sg-mine"})
    assert str(done.exception) == "the gateway refused (401): this key is not known"


def test_a_gateway_that_does_not_answer_is_one_message(cli: Cli, gateway: Gateway) -> None:
    env = {"SPARKGATE_API_KEY": "sg-mine"}
    done = cli("tasks", "outcome", "t", "failed", "--url", "http://127.0.0.1:1", env=env)
    assert done.exception is not None
    message = message_of(done.exception)
    assert message is not None
    assert message.startswith("no answer from http://127.0.0.1:1/v1/tasks/t/outcome")


def test_without_a_key_nothing_is_asked(cli: Cli, gateway: Gateway) -> None:
    done = cli("tasks", "outcome", "t", "failed", "--url", gateway.url)
    assert "set SPARKGATE_API_KEY" in str(done.exception)
    assert gateway.asked == []


@pytest.mark.parametrize("args", [("done",), ("failed", "--score", "1.5")])
def test_values_the_gateway_would_refuse_are_refused_here(cli: Cli, args: tuple[str, ...]) -> None:
    assert cli("tasks", "outcome", "t", *args).exit_code == 2
