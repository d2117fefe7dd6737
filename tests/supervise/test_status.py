"""The board: lines on change without a terminal, lines redrawn in place on one."""

from __future__ import annotations

import io
import re

from rich.console import Console

from gateway.supervise.status import Board


def test_without_a_terminal_each_change_is_one_line_and_no_change_is_none(
    board: Board, shown: io.StringIO
) -> None:
    with board:
        board.show("engine", "waiting")
        board.show("engine", "starting", "pid 7")
        board.show("engine", "starting", "pid 7")
        board.show("gateway", "ready")
    lines = [re.sub(r"^\d\d:\d\d:\d\d  ", "", line).split() for line in shown.getvalue().splitlines()]
    assert lines == [["engine", "starting", "pid", "7"], ["gateway", "ready"]]


def test_progress_is_shown_only_while_a_part_starts(board: Board, shown: io.StringIO) -> None:
    board.progress("engine", "loading")
    board.show("engine", "starting")
    board.progress("engine", "loading 50%")
    board.progress("engine", "loading 51%")
    board.show("engine", "ready")
    board.progress("engine", "loading 99%")
    assert "loading 50%" in shown.getvalue()
    assert "99%" not in shown.getvalue()
    assert "51%" not in shown.getvalue()  # a moment later, and this is no terminal


def test_a_message_is_never_wrapped_nor_read_as_markup(board: Board, shown: io.StringIO) -> None:
    message = "curl -d '[bold]' " + "x" * 500
    board.say(message)
    assert shown.getvalue() == message + "\n"


def test_on_a_terminal_all_parts_stay_in_view(shown: io.StringIO) -> None:
    board = Board(Console(file=shown, force_terminal=True, width=100, color_system=None))
    with board:
        board.show("engine", "starting")
        board.show("gateway", "ready", "http://127.0.0.1:8080")
        board.say("a message")
    last_frame = shown.getvalue().rpartition("a message")[2]
    assert "engine" in last_frame
    assert "http://127.0.0.1:8080" in last_frame
