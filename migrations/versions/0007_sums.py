"""Sums of calls, attempts, choices and rejections, which the drain adds to; histograms merged under a key of their own.

Revision: 0007
Follows: 0006

The sums begin with what the ledger still holds, by quarter hours, a day at a time. Drains wait meanwhile.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TOKENS = ("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
_SUM_OF_TOKENS = ", ".join(f"coalesce(sum({name}), 0)" for name in _TOKENS)
_SPAN = "date_bin('15 minutes', call.started_at, 'epoch'), 900"
_OF_DAY = "id >= uuid_floor(:day) AND id < uuid_floor(CAST(:day AS timestamptz) + interval '1 day')"
_CALLS = f"(SELECT * FROM exchanges WHERE {_OF_DAY}) AS call"
_WORKFLOWS = 100  # of an hour are told apart

_CALL_SUMS = f"""
WITH known AS (
    SELECT hour, workflow FROM (
        SELECT hour, workflow, row_number() OVER (PARTITION BY hour ORDER BY calls DESC, workflow) AS nth
        FROM (
            SELECT date_bin('1 hour', started_at, 'epoch') AS hour, workflow, count(*) AS calls
            FROM {_CALLS} WHERE workflow IS NOT NULL GROUP BY 1, 2
        ) AS counted
    ) AS ranked WHERE nth <= {_WORKFLOWS}
)
INSERT INTO call_sums
SELECT {_SPAN}, coalesce(target, ''), coalesce(shape, ''), endpoint,
    CASE WHEN call.workflow IS NULL THEN '' ELSE coalesce(left(known.workflow, 256), '(other)') END,
    count(*),
    count(*) FILTER (WHERE status <> 499 AND error_code IS DISTINCT FROM 'client_gone'
        AND (status >= 400 OR error_code IS NOT NULL)),
    count(timed_out),
    count(*) FILTER (WHERE status = 499 OR error_code = 'client_gone'),
    count(*) FILTER (WHERE stream),
    count(cache),
    count(*) FILTER (WHERE NOT stream AND output_tokens > 300),
    coalesce(sum(total_s) FILTER (WHERE NOT stream AND output_tokens > 300), 0),
    sum(attempts),
    count(*) FILTER (WHERE attempts > 1),
    {_SUM_OF_TOKENS},
    coalesce(sum(cost_usd), 0), count(*) FILTER (WHERE cost_usd IS NULL), coalesce(sum(saved_usd), 0)
FROM {_CALLS} LEFT JOIN known
    ON known.workflow = call.workflow AND known.hour = date_bin('1 hour', call.started_at, 'epoch')
GROUP BY 1, 2, 3, 4, 5, 6
"""

_CANDIDATES = "jsonb_path_query_array(decision, 'strict $.candidates[*]', silent => true)"

_ATTEMPT_SUMS = f"""
INSERT INTO attempt_sums
SELECT {_SPAN}, target, coalesce(shape, ''), coalesce(call.role, decided.role, ''), result,
    ordinal > 0 AND call.role IS NULL,
    count(*), sum(total_s), {_SUM_OF_TOKENS},
    coalesce(sum(cost_usd), 0), count(*) FILTER (WHERE cost_usd IS NULL)
FROM (SELECT * FROM attempts WHERE {_OF_DAY}) AS call
LEFT JOIN (
    SELECT id AS exchange_id, shape, decision FROM exchanges
    WHERE id >= uuid_floor(CAST(:day AS timestamptz) - interval '1 day')
    AND id < uuid_floor(CAST(:day AS timestamptz) + interval '1 day')
) AS exchange USING (exchange_id)
LEFT JOIN LATERAL (
    SELECT candidate ->> 'role' AS role FROM jsonb_array_elements({_CANDIDATES}) AS candidate
    WHERE candidate ->> 'target' = call.target LIMIT 1
) AS decided ON true
GROUP BY 1, 2, 3, 4, 5, 6, 7
"""

_CHOICE_SUMS = f"""
INSERT INTO choice_sums
SELECT {_SPAN}, coalesce(shape, ''), coalesce(tried -> 0 ->> 'target', ''),
    CASE
        WHEN decision IS NULL OR decision = 'null' THEN 'refused'
        WHEN tried -> 0 IS NULL THEN 'none'
        WHEN decision ->> 'explored' = 'true' THEN 'explored'
        WHEN starts_with(decision ->> 'reason', 'the model name pins') THEN 'pinned'
        WHEN tried -> 0 ->> 'role' = 'fallback' AND starts_with(decision ->> 'reason', 'under its load') THEN 'relief'
        WHEN tried -> 0 ->> 'role' IN ('fallback', 'weighted', 'sticky') THEN tried -> 0 ->> 'role'
        WHEN tried -> 1 IS NULL OR tried -> 1 ->> 'role' = 'fallback' THEN 'only'
        WHEN tried #>> '{{0,slo_misses}}' = '[]' AND tried #>> '{{1,slo_misses}}' <> '[]' THEN 'slo'
        ELSE 'score'
    END,
    coalesce(target, '') <> coalesce(tried -> 0 ->> 'target', ''),
    count(*)
FROM {_CALLS}, LATERAL (SELECT coalesce({_CANDIDATES}, '[]') AS tried) AS decided
GROUP BY 1, 2, 3, 4, 5, 6
"""

_REJECTION_SUMS = f"""
INSERT INTO rejection_sums
SELECT {_SPAN}, coalesce(shape, ''), coalesce(passed ->> 'target', ''),
    left(regexp_replace(coalesce(passed ->> 'reason', ''), '[0-9]+([.][0-9]+)?', '…', 'g'), 120),
    count(*), max(coalesce(passed ->> 'reason', ''))
FROM {_CALLS},
    jsonb_array_elements(jsonb_path_query_array(decision, 'strict $.rejections[*]', silent => true)) AS passed
GROUP BY 1, 2, 3, 4, 5
"""

_MERGED_HISTOGRAMS = """
WITH old AS (
    DELETE FROM latency_histograms WHERE span_s > 60 RETURNING *
), cells AS (
    SELECT minute, target, shape, metric, span_s, cell.k, sum(cell.n)::int AS n
    FROM old, unnest(old.k, old.n) AS cell (k, n) GROUP BY 1, 2, 3, 4, 5, 6
)
INSERT INTO latency_histograms (batch_id, minute, target, shape, metric, span_s, k, n)
SELECT CAST(lpad(to_hex(span_s), 32, '0') AS uuid), minute, target, shape, metric, span_s,
    array_agg(k ORDER BY k), array_agg(n ORDER BY k)
FROM cells GROUP BY minute, target, shape, metric, span_s
"""


def upgrade() -> None:
    op.execute("LOCK TABLE exchanges, attempts, latency_histograms IN SHARE ROW EXCLUSIVE MODE")
    _create_call_sums()
    _create_attempt_sums()
    _create_choice_sums()
    _create_rejection_sums()
    count(op.get_bind())
    op.execute(_MERGED_HISTOGRAMS)


def downgrade() -> None:
    for table in ("rejection_sums", "choice_sums", "attempt_sums", "call_sums"):
        op.drop_table(table)


def count(connection: sa.Connection) -> None:
    """Fills the empty tables with what there is."""
    for day in _days(connection):
        for statement in (_CALL_SUMS, _ATTEMPT_SUMS, _CHOICE_SUMS, _REJECTION_SUMS):
            connection.execute(sa.text(statement), {"day": day})


def _days(connection: sa.Connection) -> list[datetime]:
    """The starts of the days (UTC) that have calls, of the last year's."""
    query = """
    SELECT generate_series(date_trunc('day', greatest(min(started_at), now() - interval '366 days'), 'UTC'),
        least(max(started_at), now() + interval '1 day'), interval '1 day') FROM exchanges
    """
    return list(connection.scalars(sa.text(query)))


def _create_call_sums() -> None:
    _create(
        "call_sums",
        [_key("target"), _key("shape"), _key("endpoint"), _key("workflow")],
        [
            *map(
                _count,
                ("calls", "errors", "timeouts", "client_gone", "streamed", "cached", "unstreamed_long"),
            ),
            _count("unstreamed_long_s", sa.Float()),
            *map(_count, ("attempts", "retried", *_TOKENS)),
            _count("cost_usd", _USD),
            _count("unpriced"),
            _count("saved_usd", _USD),
        ],
    )


def _create_attempt_sums() -> None:
    _create(
        "attempt_sums",
        [_key("target"), _key("shape"), _key("role"), _key("result"), _key("is_further", sa.Boolean())],
        [
            _count("attempts"),
            _count("total_s", sa.Float()),
            *map(_count, _TOKENS),
            _count("cost_usd", _USD),
            _count("unpriced"),
        ],
    )


def _create_choice_sums() -> None:
    keys = [_key("shape"), _key("chosen"), _key("why"), _key("moved", sa.Boolean())]
    _create("choice_sums", keys, [_count("calls")])


def _create_rejection_sums() -> None:
    keys = [_key("shape"), _key("target"), _key("kind")]
    _create("rejection_sums", keys, [_count("calls"), sa.Column("example", sa.Text(), nullable=False)])


def _create(name: str, keys: list[sa.Column[Any]], counts: list[sa.Column[Any]]) -> None:
    keys = [_key("at", sa.DateTime(timezone=True)), _key("span_s", sa.Integer()), *keys]
    primary = sa.PrimaryKeyConstraint(*(key.name for key in keys), name=f"{name}_pkey")
    op.create_table(name, *keys, *counts, primary, postgresql_with={"fillfactor": 70})


_USD = sa.Numeric(20, 9)


def _key(name: str, kind: sa.types.TypeEngine[Any] | None = None) -> sa.Column[Any]:
    return sa.Column(name, kind or sa.Text(), nullable=False)


def _count(name: str, kind: sa.types.TypeEngine[Any] | None = None) -> sa.Column[Any]:
    return sa.Column(name, kind or sa.BigInteger(), nullable=False)
