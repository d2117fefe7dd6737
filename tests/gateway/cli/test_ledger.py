"""`keys`, `tasks list|show` and `db` on real Postgres: a server's by URL, and the embedded one."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from gateway.callers.store import KeyRefused
from gateway.cli.output import Refused
from gateway.ledger import tables
from gateway.ledger.batch import write
from gateway.ledger.database import create_engine
from gateway.ledger.records import outcome_record
from tests.conftest import PostgresServer
from tests.gateway.cli.conftest import Cli


@pytest.fixture
def server(clean_database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A migrated database of a server, set as the CLI's."""
    monkeypatch.setenv("SPARKGATE_DATABASE_URL", clean_database_url)
    return clean_database_url


@pytest.fixture
def task(server: str) -> str:
    """One task with one outcome, and its id."""
    engine = create_engine(server)
    with engine.begin() as connection:
        write(connection, [outcome_record("app", "t/1", "completed", 0.5, "triage")])
    engine.dispose()
    return "t/1"


def test_keys_are_created_listed_and_revoked(cli: Cli, server: str) -> None:
    created = json.loads(cli("keys", "create", "app", "--scope", "read", "--json").output)
    assert created["key"].startswith("sg-")
    assert (created["name"], created["scope"]) == ("app", "read")
    (listed,) = json.loads(cli("keys", "list", "--json").output)
    spent = {"spent_today_usd": 0.0, "spent_this_month_usd": 0.0}
    assert listed == {name: value for name, value in created.items() if name != "key"} | spent
    assert json.loads(cli("keys", "revoke", "app", "--json").output)["revoked_at"] is not None


def test_a_new_key_stands_alone_on_stdout(cli: Cli, server: str) -> None:
    done = cli("keys", "create", "app")
    assert len(done.stdout.strip()) == len("sg-") + 43
    assert "only its digest is stored" in done.stderr


def test_the_list_of_keys_shows_no_key(cli: Cli, server: str) -> None:
    assert cli("keys", "list").output == "There are no keys yet.\n"
    key = cli("keys", "create", "app").stdout.strip()
    listed = cli("keys", "list").output
    assert listed.splitlines()[1].startswith(f"app\t{key[:7]}…\tcall\t")
    assert key not in listed


LIMITS = ["--rpm", "60", "--tpm", "9000", "--parallel", "4", "--daily-usd", "1.50", "--monthly-usd", "20"]
OTHERS = ["--models", "gpt-*,auto", "--models", "fast", "--expires", "2030-01-01", "--tag", "a", "--tag", "b"]


def test_a_key_is_limited_and_its_limits_are_changed_one_by_one(cli: Cli, server: str) -> None:
    created = json.loads(cli("keys", "create", "app", *LIMITS, *OTHERS, "--json").output)
    terms = {
        "allowed_models": ["gpt-*", "auto", "fast"],
        "rpm": 60,
        "tpm": 9000,
        "parallel": 4,
        "daily_usd": 1.5,
        "monthly_usd": 20.0,
        "expires_at": "2030-01-01T00:00:00+00:00",
        "tags": ["a", "b"],
    }
    assert {name: created[name] for name in terms} == terms
    given = ["--tpm", "none", "--models", "none", "--daily-usd", "2"]
    changed = json.loads(cli("keys", "set", "app", *given, "--json").output)
    changes: dict[str, Any] = {"tpm": None, "allowed_models": [], "daily_usd": 2.0}
    assert {name: changed[name] for name in terms} == terms | changes
    assert cli("keys", "set", "app", "--rpm", "5", "--expires", "none").output == (
        "'app': 5 calls a minute, 4 calls at once, 2 USD a day, 20 USD a month\n"
    )


def test_the_list_of_keys_shows_limits_and_spending(cli: Cli, server: str) -> None:
    cli(
        "keys",
        "create",
        "app",
        "--rpm",
        "60",
        "--models",
        "gpt-*",
        "--tag",
        "team",
        "--expires",
        "2030-01-01",
    )
    cli("keys", "create", "free")
    engine = create_engine(server)
    row = {"day": datetime.now(UTC).date(), "caller": "app", "calls": 1, "tokens": 1, "cost_usd": 0.25}
    with engine.begin() as connection:
        connection.execute(sqlalchemy.insert(tables.quota_usage).values(**row, attempts_of_unknown_cost=0))
    engine.dispose()
    head, app, free = (line.split("\t") for line in cli("keys", "list").output.splitlines())
    assert head[3:7] == ["limits", "tags", "USD today", "USD this month"]
    assert app[3:7] == [
        "models gpt-*, 60 calls a minute, until 2030-01-01 00:00 UTC",
        "team",
        "0.2500",
        "0.2500",
    ]
    assert free[3:7] == ["no limits", "-", "0.0000", "0.0000"]
    assert json.loads(cli("keys", "list", "--json").output)[0]["spent_today_usd"] == 0.25


def test_expiry_may_be_given_as_a_span(cli: Cli, server: str) -> None:
    created = json.loads(cli("keys", "create", "app", "--expires", "30d", "--json").output)
    lasts = datetime.fromisoformat(created["expires_at"]) - datetime.fromisoformat(created["created_at"])
    assert timedelta(days=29, hours=23) < lasts < timedelta(days=30, hours=1)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--rpm", "many"),
        ("--tpm", "1.5"),
        ("--daily-usd", "NaN"),
        ("--monthly-usd", "1,5"),
        ("--expires", "soon"),
        ("--expires", "99999999999d"),
    ],
)
def test_limits_that_cannot_be_read_are_refused_by_option(
    cli: Cli, server: str, option: str, value: str
) -> None:
    refused = cli("keys", "create", "app", option, value).exception
    assert isinstance(refused, Refused)
    assert option in str(refused)
    assert value in str(refused)
    assert cli("keys", "list").output == "There are no keys yet.\n"


def test_limits_that_make_no_sense_are_refused(cli: Cli, server: str) -> None:
    assert "rpm should be above 0" in str(cli("keys", "create", "app", "--rpm", "0").exception)
    assert "no key is called 'app'" in str(cli("keys", "set", "app", "--rpm", "1").exception)


def test_a_taken_name_is_refused(cli: Cli, server: str) -> None:
    cli("keys", "create", "app")
    assert isinstance(cli("keys", "create", "app").exception, KeyRefused)


def test_tasks_are_listed_with_their_outcome(cli: Cli, task: str) -> None:
    (listed,) = json.loads(cli("tasks", "list", "--json").output)
    assert (listed["task_id"], listed["status"], listed["score"]) == (task, "completed", 0.5)
    assert cli("tasks", "list").output.splitlines()[1].startswith("t/1\tapp\ttriage\tcompleted\t0.5\t")
    assert json.loads(cli("tasks", "list", "--workflow", "other", "--json").output) == []


def test_one_task_is_shown_with_its_history(cli: Cli, task: str) -> None:
    shown = json.loads(cli("tasks", "show", task, "--json").output)
    assert [outcome["status"] for outcome in shown["outcomes"]] == ["completed"]
    assert "triage" in cli("tasks", "show", task).output


def test_an_unknown_task_is_refused(cli: Cli, task: str) -> None:
    assert "no task 'other'" in str(cli("tasks", "show", "other").exception)
    assert isinstance(cli("tasks", "show", task, "--caller", "somebody").exception, Refused)


def test_a_server_without_tables_is_named_as_such_and_upgraded_on_demand(
    cli: Cli, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gateway.cli.errors import message_of

    url = postgres.create(migrated=False)
    monkeypatch.setenv("SPARKGATE_DATABASE_URL", url)
    refused = cli("keys", "list").exception
    assert refused is not None
    assert message_of(refused) == "the database lacks tables of this version; run `sparkgate db upgrade`"
    assert json.loads(cli("db", "upgrade", "--json").output)["upgraded"] is True
    assert json.loads(cli("keys", "list", "--json").output) == []
    postgres.drop(url)


def test_upgrade_makes_the_role_that_only_reads_with_a_password_from_the_environment(
    cli: Cli, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = ("db", "upgrade", "--json", "--reader-password-env", "READER_PASSWORD")
    monkeypatch.delenv("READER_PASSWORD", raising=False)
    refused = cli(*named).exception
    assert isinstance(refused, Refused)
    assert "READER_PASSWORD is not set" in str(refused)
    monkeypatch.setenv("READER_PASSWORD", "a-password")
    done = cli(*named)
    assert json.loads(done.output)["reader"] == "sparkgate_reader"
    assert "a-password" not in done.output


def test_maintain_drops_days_past_their_retention(cli: Cli, server: str) -> None:
    from gateway.ledger.partitions import ensure_partitions

    old = datetime.now(UTC).date() - timedelta(days=10)
    engine = create_engine(server)
    with engine.begin() as connection:
        ensure_partitions(connection, [old])
    engine.dispose()
    kept = json.loads(cli("db", "maintain", "--json").output)
    assert kept["dropped"] == []
    done = json.loads(cli("db", "maintain", "--retention-days", "5", "--json").output)
    assert sorted(done["dropped"]) == [f"attempts_{old:%Y%m%d}", f"exchanges_{old:%Y%m%d}"]
    assert set(done["histograms"]) == {"60", "900", "3600", "86400"}
    told = cli("db", "maintain").output
    assert "days dropped: none" in told
    assert "sums merged: 0 of a quarter of an hour, 0 of an hour, 0 of a day" in told
    assert "old rows deleted: none" in told


def test_the_embedded_database_is_made_and_stopped_again(cli: Cli, folder: Path) -> None:
    from gateway.ledger import embedded

    assert cli("keys", "create", "app", "--data-dir", "data").exit_code == 0
    assert embedded.running_url(folder / "data") is None
    (key,) = json.loads(cli("keys", "list", "--data-dir", "data", "--json").output)
    assert key["name"] == "app"
