"""The key of a machine's TPM that only its TEE can use."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Machines enrolled before have none."""
    op.add_column("machines", sa.Column("binder", sa.LargeBinary(), nullable=False, server_default=sa.text("X''")))
