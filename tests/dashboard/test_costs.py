from __future__ import annotations

from datetime import datetime

import pandas as pd
import pytest
from sqlalchemy import Engine

from dashboard import queries as ledger_queries
from dashboard.costs import queries, shares
from gateway.ledger.records import Exchange
from tests.dashboard import traffic


def cost_usd(made: Exchange) -> float:
    return float(made.record()["exchange"]["cost_usd"])


def test_the_money_of_tasks_goes_where_they_ended(
    reader: Engine, writer: Engine, start: datetime, written: list[Exchange]
) -> None:
    traffic.finish_tasks(writer, written)
    rows = queries.by_end(reader, start)
    names = sorted({made.task_id for made in written if made.task_id})
    ends = ["completed", "completed", "failed", "completed", "open", "completed"]
    status = {name: ends[number % 6] for number, name in enumerate(names)}
    expected: dict[str, float] = {}
    for made in written:
        end = status[made.task_id] if made.task_id else "open"  # a call that names none is a task of its own
        expected[end] = expected.get(end, 0.0) + cost_usd(made)
    assert rows.groupby("task_status")["cost_usd"].sum().to_dict() == pytest.approx(expected)
    assert shares.lost(rows)["cost_usd"].sum() == pytest.approx(expected["failed"])
    by_workflow = ledger_queries.tasks_by_workflow(reader, start)
    assert by_workflow["cost_usd"].sum() == pytest.approx(rows["cost_usd"].sum())


def test_all_attempts_are_paid_for_and_those_without_an_answer_told(
    reader: Engine, start: datetime, written: list[Exchange]
) -> None:
    rows = queries.spending(reader, start, 60)
    assert rows["cost_usd"].sum() == pytest.approx(sum(cost_usd(made) for made in written))
    lost = [it for made in written for it in made.attempts if it.result != "ok"]
    unanswered = rows[~rows["answered"].astype(bool)]
    assert unanswered["attempts"].sum() == len(lost)
    assert unanswered["cost_usd"].sum() == pytest.approx(sum((it.cost_nusd or 0) / 1e9 for it in lost))
    output = sum(it.usage.output_tokens for made in written for it in made.attempts if it.usage)
    assert rows["output_tokens"].sum() == output


def test_a_million_tokens_of_ours_cost_what_stood_idle_too() -> None:
    spending = pd.DataFrame(
        [("engine", 2, 100, 400_000, 0.10, 0), ("claude", 1, 100, 200_000, 0.60, 1)],
        columns=["target", "attempts", "input_tokens", "output_tokens", "cost_usd", "unpriced"],
    )
    targets = pd.DataFrame(
        {"name": ["engine", "claude"], "kind": ["engine", "litellm"], "usd_per_hour": [0.2, None]}
    )
    found = shares.sides(spending, targets, {"engine": 0.06})
    assert found[shares.SELF_HOSTED].usd_per_mtok == pytest.approx(0.40)
    assert found[shares.UPSTREAM].usd_per_mtok == pytest.approx(3.00)
    assert found[shares.UPSTREAM].unpriced == 1
    assert set(shares.sides(spending[1:], targets, {})) == {shares.UPSTREAM}
