"""What a starting worker reads of the ledger: the newest attempts of each target and shape, as dispatch told them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine

from gateway.ledger import history
from gateway.ledger.batch import write
from gateway.ledger.database import create_async_engine
from gateway.ledger.records import Attempt, Exchange, uuid7
from router.digest import Digest
from router.outcome import Outcome
from tests.ledger.conftest import carried

MakeExchange = Callable[..., Exchange]
HOUR_S = 3600.0


def read(engine: Engine) -> dict[tuple[str, str], Digest]:
    async def whole() -> dict[tuple[str, str], Digest]:
        database = create_async_engine(engine.url.render_as_string(hide_password=False))
        async with database.connect() as connection:
            digests = await history.recent_digests(connection)
        await database.dispose()
        return digests

    return asyncio.run(whole())


def attempt(target: str, at: float, **given: Any) -> Attempt:
    return Attempt(target, "m", at, id=uuid7(at), **given)


def test_attempts_teach_as_their_outcomes_did(engine: Engine, make_exchange: MakeExchange) -> None:
    now = time.time() - 60.0
    lost = attempt("dead", now, result="http_error", http_status=503, total_s=0.2)
    streamed = make_exchange(now)
    streamed.attempts = [lost, *streamed.attempts]
    whole = make_exchange(now + 1.0, stream=False, shape=None)
    with engine.begin() as connection:
        write(connection, [carried(streamed), carried(whole)])
    told = read(engine)
    assert told.keys() == {("dead", "short_chat"), ("engine", "short_chat"), ("engine", "general")}
    expected = Digest()
    expected.add(Outcome("engine", "short_chat", "ok", 1.5, 0.5, 0.1, 11, cost_usd=1.5e-6))
    assert told["engine", "short_chat"].sums == expected.sums
    assert told["engine", "short_chat"].ttft == expected.ttft
    assert told["dead", "short_chat"].sums.failed == 1.0
    assert told["engine", "general"].ttft == {}  # not streamed


def test_only_the_newest_of_each_target_and_shape_within_hours(
    engine: Engine, make_exchange: MakeExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    ages_s = {"fast": (1.0, 2.0, 3.0), "slow": (HOUR_S, 2 * HOUR_S), "gone": (7 * HOUR_S,)}
    with engine.begin() as connection:
        for target, ages in ages_s.items():
            for age_s in ages:
                at = now - age_s
                call = make_exchange(at, attempts=[attempt(target, at, total_s=age_s)])
                write(connection, [carried(call)])
    monkeypatch.setattr(history, "OF_A_SHAPE", 2)
    sums = {target: digest.sums.completion_s for (target, _), digest in read(engine).items()}
    assert sums == pytest.approx({"fast": 3.0, "slow": 3 * HOUR_S})
    monkeypatch.setattr(history, "OF_A_TARGET", 1)
    sums = {target: digest.sums.completion_s for (target, _), digest in read(engine).items()}
    assert sums == pytest.approx({"fast": 1.0, "slow": HOUR_S})
    monkeypatch.setattr(history, "MAX_ATTEMPTS", 3)
    assert {target for target, _ in read(engine)} == {"fast"}


def test_an_empty_ledger_teaches_nothing(engine: Engine) -> None:
    assert read(engine) == {}
