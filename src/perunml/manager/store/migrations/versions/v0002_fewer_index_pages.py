"""Indexes over the runs that wait alone, and none from runs to leases.

A release wrote 22 pages of the log, four of them of indexes over all runs by their state, which name a handful of them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """The same rows, found otherwise."""
    waiting = sa.text("state = 'queued'")
    op.drop_index("run_state", table_name="runs")
    op.drop_index("run_line", table_name="runs")
    op.create_index("run_waiting", "runs", ["state"], sqlite_where=waiting)
    op.create_index("run_waiting_line", "runs", ["line"], sqlite_where=waiting)
    op.drop_index("ix_leases_run", table_name="leases")
