"""What engines say of themselves, sampled for the dashboard.

In: an engine's `/state` as its mapping. Out: a row of `engine_samples`, the whole answer beside the usual
figures, of which a missing or strange one is NULL.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.tables import engine_samples

_FIGURES = ("running", "waiting", "kv_used_fraction", "prefill_tokens_per_s", "decode_tokens_per_s")


async def record_engine_sample(
    connection: AsyncConnection, target: str, state: Mapping[str, Any], at: datetime | None = None
) -> None:
    """Keep one answer of `/state`; a second one of the same instant is dropped. The caller commits."""
    row = {"target": target, "sampled_at": at or datetime.now(UTC), "state": dict(state)}
    row |= {name: _number(state.get(name)) for name in _FIGURES}
    speculation = state.get("speculation")
    if isinstance(speculation, Mapping):
        row["accepted_length"] = _number(speculation.get("accepted_length"))
    await connection.execute(insert(engine_samples).values(row).on_conflict_do_nothing())


def _number(value: Any) -> int | float | None:
    return value if isinstance(value, int | float) else None
