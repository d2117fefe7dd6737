"""What each worker learnt of targets in the last second, for the others; not worth a log of its writes.

Revision: 0005
Follows: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "fleet_news",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("worker", sa.UUID(), nullable=False),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("digests", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="fleet_news_pkey"),
        prefixes=["UNLOGGED"],
    )
    op.create_index("fleet_news_at_idx", "fleet_news", ["at"])


def downgrade() -> None:
    op.drop_table("fleet_news")
