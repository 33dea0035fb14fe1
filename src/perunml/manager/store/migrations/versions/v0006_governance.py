"""Withdrawals, requests, conditions, witnesses, shares, stores, facts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """New tables, and where an asset's blobs lie; requests for runs made before are known by their digests."""
    op.create_table(
        "withdrawals",
        sa.Column("agreement", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("agreement", "digest"),
    )
    op.create_table(
        "requests",
        sa.Column("run", sa.String(), primary_key=True),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "conditions",
        sa.Column("digest", sa.String(), primary_key=True),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
    )
    op.create_index("ix_conditions_subject", "conditions", ["subject"])
    op.create_table(
        "condition_usage",
        sa.Column("condition", sa.String(), primary_key=True),
        sa.Column("runs", sa.Integer(), nullable=False),
    )
    op.create_table(
        "witness_keys",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("agreement", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("key", "agreement"),
    )
    op.create_table(
        "cosignatures",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("time", sa.Integer(), nullable=False),
        sa.Column("line", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", "size"),
    )
    op.create_table(
        "shares",
        sa.Column("asset", sa.String(), primary_key=True),
        sa.Column("line", sa.String(), primary_key=True),
        sa.Column("entry", sa.Integer(), nullable=False),
        sa.Column("holders", sa.String(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "recoveries",
        sa.Column("asset", sa.String(), nullable=False),
        sa.Column("line", sa.String(), nullable=False),
        sa.Column("shares", sa.String(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("receipt", sa.LargeBinary(), nullable=False),
        sa.Column("recovered", sa.Integer(), nullable=False),
        sa.Column("kept", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("asset", "line"),
    )
    op.create_table(
        "given_shares",
        sa.Column("asset", sa.String(), nullable=False),
        sa.Column("line", sa.String(), nullable=False),
        sa.Column("shares", sa.String(), nullable=False),
        sa.Column("party", sa.String(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("kept", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("asset", "line", "shares", "party"),
    )
    op.create_index("checkpoints_only", "assets", ["run"], sqlite_where=sa.text("kind = 'checkpoint'"))
    op.add_column("assets", sa.Column("store", sa.String(), nullable=False, server_default=""))
    op.create_table(
        "stores",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("bucket", sa.String(), nullable=False),
        sa.Column("prefix", sa.String(), nullable=False),
        sa.Column("region", sa.String(), nullable=False),
        sa.Column("kept", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "facts",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("value", sa.Text(), nullable=False),
    )
