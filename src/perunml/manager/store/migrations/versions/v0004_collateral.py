"""The newest collateral of each platform's kind that evidence was judged by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing was judged by any before."""
    op.create_table(
        "collateral_seen",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("issued", sa.Integer(), nullable=False),
    )
