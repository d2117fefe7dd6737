"""Which target keeps which response, and whose it is: known to all workers, and after a restart.

Revision: 0004
Follows: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "response_homes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="response_homes_pkey"),
    )
    op.create_index("response_homes_created_at_idx", "response_homes", ["created_at"])


def downgrade() -> None:
    op.drop_table("response_homes")
