"""Exit codes and messages of the command as users run it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.gateway.cli.conftest import Process

UNREACHABLE = "postgresql://someone:pw-secret@127.0.0.1:{port}/x"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_help_lists_every_command(process: Process) -> None:
    done = process("--help")
    assert done.returncode == 0
    for name in ("up", "gateway", "engine", "dashboard", "init", "keys", "policy", "tasks", "db", "doctor"):
        assert name in done.stdout


def test_the_version_is_that_of_the_package(process: Process) -> None:
    assert process("--version").stdout == f"sparkgate {version('sparkgate')}\n"


def test_help_loads_nothing_heavy(folder: Path) -> None:
    code = (
        "import sys; from gateway.cli.main import build_app; build_app()\n"
        "heavy = {'pydantic', 'sqlalchemy', 'httpx', 'yaml', 'alembic', 'rich.table', 'litellm', 'fastapi'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_mistakes_in_a_file_are_listed_and_exit_2(process: Process, folder: Path) -> None:
    (folder / "sparkgate.yaml").write_text("prot: 1\nworkers: 0\nhost: [a]\n")
    done = process("keys", "list")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "sparkgate.yaml:1: prot: unknown key; did you mean 'port'?",
        "sparkgate.yaml:2: workers: should be greater than or equal to 1, not 0",
        "sparkgate.yaml:3: host: should be text",
    ]


def test_a_database_that_does_not_answer_is_one_message_without_the_password(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARKGATE_DATABASE_URL", UNREACHABLE.format(port=free_port()))
    done = process("keys", "list")
    assert done.returncode == 2
    assert done.stderr.startswith("the database cannot be reached: ")
    assert "Traceback" not in done.stderr
    assert "pw-secret" not in done.stderr


def test_a_database_that_is_no_postgres_is_refused(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARKGATE_DATABASE_URL", "mysql://u:pw-secret@h/x")
    done = process("keys", "list")
    assert done.returncode == 2
    assert "is not Postgres" in done.stderr
    assert "pw-secret" not in done.stderr


@pytest.mark.parametrize(
    "args", [("frobnicate",), ("keys", "create"), ("keys", "create", "a", "--scope", "god")]
)
def test_a_wrong_command_line_exits_2(process: Process, args: tuple[str, ...]) -> None:
    done = process(*args)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_named_file_must_exist(process: Process) -> None:
    done = process("keys", "list", "--config", "nowhere.yaml")
    assert done.returncode == 2
    assert done.stderr == "nowhere.yaml: there is no such file; `sparkgate init` writes one\n"


def test_a_folder_that_cannot_be_written_is_one_message(process: Process, folder: Path) -> None:
    (folder / "file").write_text("")
    done = process("init", "--config", "file/sparkgate.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("file")
    assert "Traceback" not in done.stderr


def test_an_error_nobody_expected_is_two_lines(folder: Path) -> None:
    code = (
        "from gateway.cli import init, main\n"
        "def register(app):\n"
        "    @app.command('boom')\n"
        "    def boom(): raise ZeroDivisionError('oh')\n"
        "init.register = register\n"
        "import sys; sys.argv = ['sparkgate', 'boom']; main.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 70
    assert done.stderr.splitlines()[0] == "unexpected ZeroDivisionError: oh"
    shown = {**os.environ, "SPARKGATE_TRACEBACK": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=shown
    )
    assert "Traceback" in done.stderr


def test_ctrl_c_exits_130(folder: Path) -> None:
    code = (
        "import time\n"
        "from gateway.cli import init, main\n"
        "def register(app):\n"
        "    @app.command('wait')\n"
        "    def wait():\n"
        "        print('waiting', flush=True)\n"
        "        time.sleep(60)\n"
        "init.register = register\n"
        "import sys; sys.argv = ['sparkgate', 'wait']; main.main()\n"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "waiting\n"
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "Traceback" not in errors


def test_a_reader_that_leaves_early_is_no_error(process: Process, folder: Path) -> None:
    command = f"{sys.executable} -P -m gateway.cli.main schema deployment | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("{\n", "")
