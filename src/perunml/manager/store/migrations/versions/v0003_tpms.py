"""What a machine's EK certificate tells, its cloud instance, and the agreements that a cleared TPM made void for it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Machines enrolled before have a TPM of no known kind."""
    op.add_column("machines", sa.Column("tpm", sa.Text(), nullable=False, server_default="{}"))
    op.add_column("machines", sa.Column("instance", sa.String(), nullable=False, server_default=""))
    op.add_column("machines", sa.Column("void", sa.Text(), nullable=False, server_default="[]"))
