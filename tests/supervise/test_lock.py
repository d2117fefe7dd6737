"""The data directory's lock, against a second real process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.supervise.lock import AlreadyRunning, DataDirLock

HOLD = """
import sys, time
from pathlib import Path
from gateway.supervise.lock import DataDirLock
with DataDirLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "run" / "up.lock"


def test_a_second_copy_is_refused_and_told_who_runs_and_since_when(path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(AlreadyRunning) as refusal:
            DataDirLock(path)
        holder.kill()
    message = str(refusal.value)
    assert f"pid {holder.pid}, since 20" in message
    assert str(tmp := path.parent.parent) in message, tmp
    assert "--data-dir" in message


def test_a_killed_holder_leaves_no_lock_behind(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()
    DataDirLock(path).close()


def test_a_closed_lock_can_be_taken_again_and_names_nobody(path: Path) -> None:
    with DataDirLock(path):
        assert path.read_text()
    assert path.read_text() == ""
    with DataDirLock(path), pytest.raises(AlreadyRunning):
        DataDirLock(path)


def test_a_holder_that_has_not_yet_written_its_name_is_still_a_holder(path: Path) -> None:
    with DataDirLock(path):
        path.write_text("")
        with pytest.raises(AlreadyRunning, match="just starting"):
            DataDirLock(path)
