"""Part logs: appended to, moved aside when large, read from their newest run."""

from __future__ import annotations

from pathlib import Path

from gateway.supervise.logs import PartLog


def write(log: PartLog, text: str) -> None:
    with log.open() as output:
        output.write(text.encode())


def test_only_the_newest_run_is_shown(tmp_path: Path) -> None:
    log = PartLog(tmp_path, "engine")
    write(log, "an older failure\n")
    write(log, "first\nsecond\n\nthird\n")
    assert log.last_lines(2) == ["second", "third"]
    assert log.last_lines(99) == ["first", "second", "third"]
    assert log.path.read_text().startswith("an older failure\n")


def test_a_line_that_was_redrawn_shows_its_newest_state_without_terminal_codes(tmp_path: Path) -> None:
    log = PartLog(tmp_path, "engine")
    write(log, "\x1b[2Kloading 10%\r\x1b[1;32mloading 90%\x1b[0m\r\n")
    assert log.last_lines(5) == ["loading 90%"]


def test_a_log_that_was_never_written_has_no_lines(tmp_path: Path) -> None:
    assert PartLog(tmp_path, "engine").last_lines(5) == []


def test_a_large_log_is_moved_aside_at_the_next_start(tmp_path: Path) -> None:
    log = PartLog(tmp_path, "engine")
    write(log, "x" * 10_000_001)
    write(log, "new\n")
    assert log.path.read_text() == "new\n"
    assert (tmp_path / "engine.log.1").stat().st_size == 10_000_001
    assert log.last_lines(5) == ["new"]


def test_a_log_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    log = PartLog(tmp_path, "engine")
    write(log, "new\n")
    assert log.path.stat().st_mode & 0o077 == 0
