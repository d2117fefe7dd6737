"""Orphans: recorded processes are ended with all below them, others never, whatever the record says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from gateway.supervise.orphans import ChildRecord, end_orphans, recorded, session_members

WITH_CHILD = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
signal.signal(signal.SIGTERM, signal.SIG_IGN if "deaf" in sys.argv else signal.SIG_DFL)
print(child.pid, flush=True)
time.sleep(600)
"""


class Family:
    """A process that leads its own session, and its child."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-c", WITH_CHILD, *arguments]
        self.parent = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        assert self.parent.stdout is not None
        self.child = psutil.Process(int(self.parent.stdout.readline()))

    def end(self) -> None:
        for process in (self.parent, self.child):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        with self.parent:
            pass


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "parts.json"


@pytest.fixture
def family() -> Iterator[Family]:
    found = Family()
    yield found
    found.end()


def test_a_recorded_process_is_ended_with_its_children(record: Path, family: Family) -> None:
    ChildRecord(record).add("engine", family.parent.pid)
    assert end_orphans(record, grace_s=10) == [f"engine (pid {family.parent.pid})"]
    assert not psutil.pid_exists(family.parent.pid)
    assert not family.child.is_running()
    assert recorded(record) == []


def test_one_that_ignores_sigterm_is_killed_after_its_grace(record: Path) -> None:
    family = Family("deaf")
    ChildRecord(record).add("engine", family.parent.pid)
    end_orphans(record, grace_s=0.2)
    assert not psutil.pid_exists(family.parent.pid)
    assert not family.child.is_running()
    family.end()


def test_a_process_is_known_again_when_the_boot_time_was_reckoned_a_second_off(
    record: Path, family: Family
) -> None:
    ChildRecord(record).add("engine", family.parent.pid)
    (entry,) = json.loads(record.read_text())
    record.write_text(json.dumps([entry | {"created_at": entry["created_at"] + 1.0}]))
    assert end_orphans(record, grace_s=10) == [f"engine (pid {family.parent.pid})"]


def test_a_process_that_only_got_the_recorded_pid_is_left_alone(record: Path, family: Family) -> None:
    ChildRecord(record).add("engine", family.parent.pid)
    (entry,) = json.loads(record.read_text())
    record.write_text(json.dumps([entry | {"created_at": entry["created_at"] - 3600}]))
    assert end_orphans(record, grace_s=1) == []
    assert family.parent.poll() is None


def test_a_process_that_ended_in_order_is_no_orphan(record: Path, family: Family) -> None:
    children = ChildRecord(record)
    children.add("engine", family.parent.pid)
    children.remove("engine")
    assert end_orphans(record, grace_s=1) == []
    assert family.parent.poll() is None


@pytest.mark.parametrize("text", ["", "{", '[{"pid": 1}]', "[1]", '{"pid": 1}'])
def test_a_record_that_cannot_be_read_names_nobody(record: Path, text: str) -> None:
    record.write_text(text)
    assert end_orphans(record, grace_s=1) == []


def test_without_a_record_there_is_nothing_to_end(record: Path) -> None:
    assert end_orphans(record, grace_s=1) == []


def test_what_a_dead_leader_left_in_its_session_is_found(family: Family) -> None:
    family.parent.kill()
    family.parent.wait()
    assert session_members(family.parent.pid) == [family.child]
