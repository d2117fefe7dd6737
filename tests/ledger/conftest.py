"""Records and engines for the ledger's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from gateway.ledger.database import create_engine
from gateway.ledger.records import Attempt, Exchange, Usage, uuid7
from gateway.ledger.segments import decode_line, encode_line

NOON = 1_795_262_400.0  # 2026-11-21 12:00:00 UTC
MakeExchange = Callable[..., Exchange]


@pytest.fixture
def engine(clean_database_url: str) -> Iterator[Engine]:
    engine = create_engine(clean_database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def make_exchange() -> MakeExchange:
    """An exchange that streamed eleven tokens: the first after 0.5 s, one every 0.1 s from then."""

    def make(at: float = NOON, **changes: object) -> Exchange:
        attempt = Attempt(
            target="engine",
            model="tiny",
            started_at=at,
            id=uuid7(at),
            http_status=200,
            ttft_s=0.5,
            total_s=1.5,
            usage=Usage(input_tokens=20, output_tokens=11),
            cost_nusd=1_500,
        )
        plain = {"caller": "alice", "endpoint": "/v1/chat/completions", "stream": True, "status": 200}
        timing = {"started_at": at, "id": uuid7(at), "ttft_s": 0.5, "total_s": 1.5}
        values = plain | timing | {"shape": "short_chat", "attempts": [attempt]} | changes
        return Exchange(**values)  # type: ignore[arg-type]

    return make


def carried(exchange: Exchange) -> dict[str, Any]:
    """The exchange's record as the drain reads it from the spool."""
    record = decode_line(encode_line(exchange.record()).rstrip(b"\n"))
    assert record is not None
    return record
