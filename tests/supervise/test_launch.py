"""The launcher: a part is told to stop when its supervisor is killed, and never starts for one that is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from gateway.supervise import launch

SUPERVISE = """
import os, subprocess, sys, time
part = [sys.executable, "-c", sys.argv[2]]
process = subprocess.Popen([sys.executable, "-I", "-S", sys.argv[1], str(os.getpid()), *part], start_new_session=True)
print(process.pid, flush=True)
time.sleep(600)
"""
PART = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0 if open({log!r}, "w").write("told to stop") else 1))
open({up!r}, "w").close()
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_part_is_told_to_stop_when_its_supervisor_is_killed(tmp_path: Path) -> None:
    log, up = tmp_path / "log.txt", tmp_path / "up.txt"
    part = PART.format(log=str(log), up=str(up))
    command = [sys.executable, "-c", SUPERVISE, launch.__file__, part]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        child = psutil.Process(int(supervisor.stdout.readline()))
        while not up.exists():
            assert child.is_running()
        supervisor.kill()
    child.wait(60)
    assert log.read_text() == "told to stop"


def test_the_launched_command_keeps_the_launchers_pid_and_arguments() -> None:
    command = [sys.executable, "-c", "import os, sys; print(os.getpid(), sys.argv[1:])", "a b", "ü"]
    launcher = (
        "import os, sys\n"  # what the supervisor's fork does: become the launcher, with the supervisor as parent
        "os.execv(sys.executable, [sys.executable, sys.argv[1], str(os.getppid()), *sys.argv[2:]])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", launcher, launch.__file__, *command], stdout=subprocess.PIPE
    ) as done:
        assert done.stdout is not None
        assert done.stdout.read().decode() == f"{done.pid} ['a b', 'ü']\n"


def test_nothing_is_started_for_a_supervisor_that_is_gone() -> None:
    done = subprocess.run(
        [sys.executable, launch.__file__, "1", sys.executable, "-c", "print('started')"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "the supervisor is gone\n")
