"""Which ways are compared, and what they are called."""

from __future__ import annotations

import pytest

from gateway.bench.engine.ways import Way, ways


def test_one_drafter_needs_no_name() -> None:
    assert ways(["lookup"], ["off", "auto"], ["prefix"]) == (
        Way("plain", "lookup", "prefix", "off"),
        Way("auto", "lookup", "prefix", "auto"),
    )


def test_plain_decoding_is_run_once_and_without_a_drafter_where_that_is_named() -> None:
    assert ways(["a", "none", "b"], ["off", "fixed"], ["prefix"]) == (
        Way("plain", "none", "prefix", "off"),
        Way("a fixed", "a", "prefix", "fixed"),
        Way("b fixed", "b", "prefix", "fixed"),
    )


def test_no_drafter_is_plain_decoding_whatever_the_modes() -> None:
    assert ways(["none"], ["auto", "fixed"], ["prefix"]) == (Way("plain", "none", "prefix", "off"),)


def test_schedules_differ_under_auto_alone() -> None:
    assert [way.name for way in ways(["a"], ["fixed", "auto", "static"], ["delayed", "prefix"])] == [
        "fixed",
        "delayed auto",
        "prefix auto",
        "static",
    ]


@pytest.mark.parametrize(
    ("drafters", "names"),
    [
        (["runs/first", "owner/second"], ["first auto", "second auto"]),
        (["runs/1/best", "runs/2/best", "lookup"], ["runs/1/best auto", "runs/2/best auto", "lookup auto"]),
        (["runs/best/", "lookup"], ["best auto", "lookup auto"]),
    ],
)
def test_drafters_are_called_by_their_last_part_where_it_tells_them_apart(
    drafters: list[str], names: list[str]
) -> None:
    assert [way.name for way in ways(drafters, ["auto"], ["prefix"])] == names
