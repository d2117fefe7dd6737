"""The first key: made once, kept for its owner, never one that nobody knows."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.callers.store import KeyRefused
from gateway.supervise.first_key import first_key, make_ready
from tests.conftest import PostgresServer


def ask(url: str, wanted: str | None, file: Path) -> tuple[str, str | None]:
    found = asyncio.run(first_key(url, wanted, file))
    return found.kind, found.key


def test_an_empty_database_gets_its_tables_and_a_key(tmp_path: Path, postgres: PostgresServer) -> None:
    url = postgres.create(migrated=False)
    key = asyncio.run(make_ready(url, None, tmp_path / "first_key"))
    assert key.kind == "made"
    assert (tmp_path / "first_key").read_text() == f"{key.key}\n"
    assert (tmp_path / "first_key").stat().st_mode & 0o777 == 0o600
    postgres.drop(url)


def test_a_later_start_knows_the_key_but_does_not_show_it(clean_database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "first_key"
    assert ask(clean_database_url, None, file)[0] == "made"
    assert ask(clean_database_url, None, file) == ("kept", None)


@pytest.mark.parametrize("text", [None, "sg-of-another-database\n"])
def test_a_file_that_holds_no_key_of_this_database_is_not_offered(
    text: str | None, clean_database_url: str, tmp_path: Path
) -> None:
    assert ask(clean_database_url, None, tmp_path / "first_key")[0] == "made"
    other = tmp_path / "other"
    if text is not None:
        other.write_text(text)
    assert ask(clean_database_url, None, other) == ("elsewhere", None)


def test_a_key_from_the_environment_works_and_is_not_written_down(
    clean_database_url: str, tmp_path: Path
) -> None:
    assert ask(clean_database_url, "sg-from-the-environment", tmp_path / "first_key") == ("given", None)
    assert ask(clean_database_url, "sg-from-the-environment", tmp_path / "first_key") == ("given", None)
    assert list(tmp_path.iterdir()) == []


def test_a_key_from_the_environment_that_cannot_be_one_is_refused(
    clean_database_url: str, tmp_path: Path
) -> None:
    with pytest.raises(KeyRefused, match="SPARKGATE_API_KEY"):
        ask(clean_database_url, "short", tmp_path / "first_key")


def test_a_key_that_could_not_be_written_down_is_not_made(clean_database_url: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        ask(clean_database_url, None, tmp_path / "no such folder" / "first_key")
    assert ask(clean_database_url, None, tmp_path / "first_key")[0] == "made"
