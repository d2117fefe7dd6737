"""What prices depend on beside tokens; why a target's costs are unknown; what self-hosted targets cost by the hour.

Revision: 0009
Follows: 0008

How long engines were up before is taken from the samples that are still there, at the price of today.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)

_UP_SO_FAR = """
INSERT INTO engine_hours (hour, target, place, up_s, usd, counted_until)
SELECT date_trunc('hour', minute, 'UTC'), target, '', 60 * count(*), round(usd_per_hour * count(*) / 60, 9),
    max(minute) + interval '1 minute'
FROM (SELECT DISTINCT target, date_trunc('minute', sampled_at) AS minute FROM engine_samples) AS up
JOIN targets ON targets.name = up.target
GROUP BY 1, 2, usd_per_hour
"""

# An hour's row of attempts may be a day's, once it is old, and calls may be charged more than the machine costs: only
# sums over a span tell what was idle.
_SELF_HOSTED_COSTS = """
CREATE VIEW self_hosted_costs AS
SELECT hour, target, sum(up_s) AS up_s,
    CASE WHEN count(*) FILTER (WHERE usd IS NULL) = 0 THEN sum(usd) END AS usd_total,
    sum(used) AS usd_used,
    CASE WHEN count(*) FILTER (WHERE usd IS NULL) = 0 THEN sum(usd) - sum(used) END AS usd_idle
FROM (
    SELECT hour, target, up_s, usd, 0::numeric AS used FROM engine_hours
    UNION ALL
    SELECT date_trunc('hour', at, 'UTC'), target, 0, 0, cost_usd FROM attempt_sums
    WHERE target IN (SELECT prices.target FROM prices WHERE usd_per_hour IS NOT NULL)
) AS entries
GROUP BY hour, target
"""


def upgrade() -> None:
    op.add_column("attempts", sa.Column("service_tier", sa.Text()))
    op.add_column("attempts", sa.Column("billed_apart", postgresql.JSONB()))
    op.add_column("prices", sa.Column("rates", postgresql.JSONB()))
    op.add_column("targets", sa.Column("price_note", sa.Text()))
    op.create_table(
        "engine_hours",
        sa.Column("hour", _TIME, nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("up_s", sa.Float(), nullable=False),
        sa.Column("usd", sa.Numeric(20, 9)),
        sa.Column("counted_until", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("hour", "target", "place", name="engine_hours_pkey"),
    )
    op.execute(_UP_SO_FAR)
    op.execute(_SELF_HOSTED_COSTS)


def downgrade() -> None:
    op.execute("DROP VIEW self_hosted_costs")
    op.drop_table("engine_hours")
    op.drop_column("targets", "price_note")
    op.drop_column("prices", "rates")
    for column in ("service_tier", "billed_apart"):
        op.drop_column("attempts", column)
