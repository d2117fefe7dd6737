"""What a worker keeps of its own shadows, until the ledger shows them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.config.load import load_policy
from gateway.dispatch import shadow_budget
from gateway.dispatch.shadow_budget import ShadowBudget
from gateway.ledger.database import create_async_engine
from gateway.ledger.records import Attempt
from gateway.ledger.shadows import ShadowCosts

FREE = "version: 1\ndefaults: {candidates: [a], shadow: {target: b, share: 1}}\n"


@contextmanager
def in_the_ledger(found: set[UUID], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    async def costs(*_: object) -> ShadowCosts:
        return ShadowCosts({}, frozenset(found))

    with monkeypatch.context() as patch:
        patch.setattr(shadow_budget, "shadow_costs", costs)
        yield


def test_without_a_budget_nothing_piles_up(clean_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_policy(FREE, "policy.yaml", ("a", "b"))

    async def test(database: AsyncEngine) -> None:
        budget = ShadowBudget(database, lambda: policy)
        shown, hidden = (Attempt("b", "m", time.time()) for _ in range(2))
        old = Attempt("b", "m", time.time() - 2 * 86_400)
        for attempt in (shown, hidden, old):
            budget.add("short_chat", attempt)
        with in_the_ledger({shown.id}, monkeypatch):
            await budget.step()
        assert set(budget._own) == {hidden.id}
        assert budget.allows("short_chat", None)

    async def with_database() -> None:
        database = create_async_engine(clean_database_url)
        await test(database)
        await database.dispose()

    asyncio.run(with_database())


def test_while_the_database_is_away_only_today_is_kept() -> None:
    policy = load_policy(FREE, "policy.yaml", ("a", "b"))

    async def test() -> None:
        database = create_async_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")
        budget = ShadowBudget(database, lambda: policy)
        today, old = Attempt("b", "m", time.time()), Attempt("b", "m", time.time() - 2 * 86_400)
        budget.add("short_chat", today)
        budget.add("short_chat", old)
        await budget.step()
        assert set(budget._own) == {today.id}
        await database.dispose()

    asyncio.run(test())
