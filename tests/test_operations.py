"""docs/operations.md and docs/deploy/sparkgate.service say what is so."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from gateway.cli.main import build_app
from gateway.config.load import load_deployment

ROOT = Path(__file__).resolve().parents[1]
UNIT = (ROOT / "docs" / "deploy" / "sparkgate.service").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def settings(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)


def test_every_alert_has_its_line() -> None:
    groups = yaml.safe_load((ROOT / "docs" / "alerts.yaml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    assert alerts == set(re.findall(r"`(Sparkgate\w+)`", OPERATIONS))


def test_the_unit_starts_what_exists_and_waits_for_its_end() -> None:
    program, *words = settings("ExecStart")[0].split()
    assert program.endswith("/bin/sparkgate")
    command = typer.main.get_command(build_app())
    with command.make_context("sparkgate", words) as context:
        name, sub, rest = command.resolve_command(context, words)  # type: ignore[attr-defined]
        sub.make_context(name, rest, parent=context)
    grace_s = load_deployment(None, {}).deployment.shutdown_grace_s
    assert int(settings("TimeoutStopSec")[0]) >= grace_s + 5 + 20 + 30  # streams, books, drain, Postgres
    assert settings("KillMode") == ["mixed"]  # SIGTERM to the supervisor alone
    assert settings("ExecReload") == ["/bin/kill -HUP $MAINPID"]


def test_systemd_takes_the_unit_as_it_stands(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    path = tmp_path / "sparkgate.service"
    path.write_text(
        UNIT.replace("/opt/sparkgate/bin/sparkgate", str(Path(sys.executable).with_name("sparkgate")))
    )
    checked = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    assert [line for line in checked.stderr.splitlines() if str(path) in line] == []
