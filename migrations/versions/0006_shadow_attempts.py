"""Attempts that were made on trial only, beside those of a call: told apart by their role.

Revision: 0006
Follows: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("role", sa.Text()))
    op.create_index("attempts_shadow_idx", "attempts", ["id"], postgresql_where=sa.text("role = 'shadow'"))


def downgrade() -> None:
    op.drop_column("attempts", "role")  # takes its index along
