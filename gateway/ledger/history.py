"""What the last hours' attempts teach about targets, for a worker that starts: the newest few of each target and shape.

In: a connection. Out: digests by target and shape. Reads keys backwards from now and no further than it must,
however large the ledger is.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from router.digest import Digest
from router.outcome import Outcome

HOURS = 6
MAX_ATTEMPTS = 10_000  # looked at; a busy gateway makes them in minutes, a quiet one in hours
OF_A_TARGET = 300  # of these so many are looked up with their exchange
OF_A_SHAPE = 20
_NEWEST = """
WITH newest AS (
    SELECT id, exchange_id, target, result, http_status, ttft_s, total_s, output_tokens, cost_usd
    FROM attempts WHERE id >= uuid_floor(now() - make_interval(hours => :hours)) ORDER BY id DESC LIMIT :attempts
), by_target AS (
    SELECT *, row_number() OVER (PARTITION BY target ORDER BY id DESC) AS nth FROM newest
), by_shape AS (
    SELECT by_target.*, call.stream, call.shape,
        row_number() OVER (PARTITION BY target, call.shape ORDER BY by_target.id DESC) AS nth_of_shape
    FROM by_target CROSS JOIN LATERAL (
        SELECT stream, coalesce(shape, 'general') AS shape FROM exchanges
        WHERE id = by_target.exchange_id AND id >= uuid_floor(now() - make_interval(hours => :hours + 1)) OFFSET 0
    ) call WHERE by_target.nth <= :of_a_target
)
SELECT target, shape, stream, result, http_status, ttft_s, total_s, output_tokens, cost_usd::float8 AS cost_usd
FROM by_shape WHERE nth_of_shape <= :of_a_shape ORDER BY id
"""


async def recent_digests(connection: AsyncConnection) -> dict[tuple[str, str], Digest]:
    """By target and shape, of at most OF_A_SHAPE attempts each."""
    limits = {"hours": HOURS, "attempts": MAX_ATTEMPTS}
    limits |= {"of_a_target": OF_A_TARGET, "of_a_shape": OF_A_SHAPE}
    digests: dict[tuple[str, str], Digest] = {}
    for row in (await connection.execute(text(_NEWEST), limits)).mappings():
        outcome = _outcome(**row)
        digests.setdefault((outcome.target, outcome.shape), Digest()).add(outcome)
    return digests


def _outcome(
    stream: bool, ttft_s: float | None, total_s: float, output_tokens: int | None, **row: Any
) -> Outcome:
    """As dispatch told it to the fleet, less what the ledger does not keep (truncation, Retry-After)."""
    outcome = Outcome(total_s=total_s, output_tokens=output_tokens, **row)
    if stream and ttft_s is not None:
        outcome.ttft_s = ttft_s
        if output_tokens is not None and output_tokens > 1:
            outcome.tpot_s = (total_s - ttft_s) / (output_tokens - 1)
    return outcome
