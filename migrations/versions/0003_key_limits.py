"""Limits, tags and an end of API keys; what callers use, by day; answers from the cache; usage that is our estimate.

Revision: 0003
Follows: 0002

`quota_usage` was never written before, so it is made anew, and begins with what the ledger still holds of the
current month.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_USD = sa.Numeric(20, 9)
_TEXTS = sa.ARRAY(sa.Text())

_USED_THIS_MONTH = """
WITH month AS (SELECT date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS start)
INSERT INTO quota_usage (day, caller, calls, tokens, cost_usd, attempts_of_unknown_cost)
SELECT (exchange.started_at AT TIME ZONE 'UTC')::date, caller, count(*),
    coalesce(sum(tries.tokens), 0), coalesce(sum(tries.cost_usd), 0), coalesce(sum(tries.of_unknown_cost), 0)
FROM month, exchanges exchange LEFT JOIN (
    SELECT exchange_id, sum(coalesce(input_tokens, 0) + coalesce(output_tokens, 0)) AS tokens,
        sum(cost_usd) AS cost_usd, count(*) FILTER (WHERE cost_usd IS NULL) AS of_unknown_cost
    FROM month, attempts WHERE started_at >= start GROUP BY exchange_id
) tries ON tries.exchange_id = exchange.id
WHERE exchange.started_at >= start
GROUP BY 1, 2
"""


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("expires_at", sa.DateTime(timezone=True)))
    op.add_column("api_keys", sa.Column("allowed_models", _TEXTS, server_default="{}", nullable=False))
    for limit in ("rpm", "tpm", "parallel"):
        op.add_column("api_keys", sa.Column(limit, sa.BigInteger()))
    for budget in ("daily_usd", "monthly_usd"):
        op.add_column("api_keys", sa.Column(budget, _USD))
    op.add_column("api_keys", sa.Column("tags", _TEXTS, server_default="{}", nullable=False))
    op.add_column("exchanges", sa.Column("cache", sa.Text()))
    op.add_column("exchanges", sa.Column("saved_usd", _USD))
    op.add_column("attempts", sa.Column("is_estimated", sa.Boolean()))
    op.drop_table("quota_usage")
    op.create_table(
        "quota_usage",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_usd", _USD, nullable=False),
        sa.Column("attempts_of_unknown_cost", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", "caller", name="quota_usage_pkey"),
    )
    op.execute(_USED_THIS_MONTH)


def downgrade() -> None:
    op.drop_table("quota_usage")
    op.create_table(
        "quota_usage",
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("calls", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cost_usd", _USD, server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("caller", "period", name="quota_usage_pkey"),
    )
    op.drop_column("attempts", "is_estimated")
    for column in ("cache", "saved_usd"):
        op.drop_column("exchanges", column)
    for column in (
        "tags",
        "monthly_usd",
        "daily_usd",
        "parallel",
        "tpm",
        "rpm",
        "allowed_models",
        "expires_at",
    ):
        op.drop_column("api_keys", column)
