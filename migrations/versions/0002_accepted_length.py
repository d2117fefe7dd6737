"""How many tokens a step of an engine adds to an answer, beside the other figures of a sample.

Revision: 0002
Follows: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("engine_samples", sa.Column("accepted_length", sa.Float()))


def downgrade() -> None:
    op.drop_column("engine_samples", "accepted_length")
