"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "admitted",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("time", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_table(
        "agreement_keys",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("agreement", sa.String(), nullable=False),
        sa.Column("party", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("key", "agreement"),
    )
    op.create_table(
        "agreements",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("line", sa.String(), nullable=False),
        sa.Column("predecessor", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_index(op.f("ix_agreements_line"), "agreements", ["line"], unique=False)
    op.create_table(
        "approvals",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("agreement", sa.String(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("agreement", "digest"),
    )
    op.create_table(
        "assets",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("asset_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("complete", sa.Integer(), nullable=False),
        sa.Column("manifest", sa.LargeBinary(), nullable=False),
        sa.Column("kept", sa.LargeBinary(), nullable=False),
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("output", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_index(op.f("ix_assets_asset_id"), "assets", ["asset_id"], unique=False)
    op.create_table(
        "blobs",
        sa.Column("asset", sa.String(), nullable=False),
        sa.Column("blob", sa.String(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("received", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("asset", "blob"),
    )
    op.create_table(
        "changes",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_index(op.f("ix_changes_subject"), "changes", ["subject"], unique=False)
    op.create_table(
        "checkpoint",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("time", sa.Integer(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "documents",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_table(
        "entries",
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("agreement", sa.String(), nullable=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("entry", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("position"),
    )
    op.create_index(op.f("ix_entries_agreement"), "entries", ["agreement"], unique=False)
    op.create_table(
        "heads",
        sa.Column("agreement", sa.String(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("agreement"),
    )
    op.create_table(
        "leases",
        sa.Column("lease", sa.String(), nullable=False),
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("machine", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("agreement", sa.String(), nullable=False),
        sa.Column("session_key", sa.String(), nullable=False),
        sa.Column("session_hpke", sa.String(), nullable=False),
        sa.Column("active", sa.Integer(), nullable=False),
        sa.Column("steady", sa.Float(), nullable=False),
        sa.Column("wall", sa.Float(), nullable=False),
        sa.Column("boot", sa.String(), nullable=False),
        sa.Column("seconds", sa.Integer(), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("clock", sa.String(), nullable=False),
        sa.Column("log", sa.Integer(), nullable=False),
        sa.Column("asked", sa.String(), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False),
        sa.Column("started", sa.Integer(), nullable=False),
        sa.Column("grants", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("lease"),
    )
    op.create_index(op.f("ix_leases_active"), "leases", ["active"], unique=False)
    op.create_index(op.f("ix_leases_run"), "leases", ["run"], unique=False)
    op.create_table(
        "logs",
        sa.Column("machine", sa.String(), nullable=False),
        sa.Column("boot", sa.String(), nullable=False),
        sa.Column("start", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("machine", "boot", "start"),
    )
    op.create_table(
        "machines",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("simulated", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("operator", sa.String(), nullable=False),
        sa.Column("ek", sa.LargeBinary(), nullable=False),
        sa.Column("ak", sa.LargeBinary(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("tls_key", sa.String(), nullable=False),
        sa.Column("enrolments", sa.Integer(), nullable=False),
        sa.Column("clock", sa.String(), nullable=False),
        sa.Column("boot", sa.String(), nullable=False),
        sa.Column("log_size", sa.Integer(), nullable=False),
        sa.Column("boot_line", sa.String(), nullable=False),
        sa.Column("boot_agreement", sa.String(), nullable=False),
        sa.Column("boot_shared", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("machine_name", "machines", ["operator", "name"], unique=True)
    op.create_table(
        "nodes",
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "position"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "nonces",
        sa.Column("nonce", sa.String(), nullable=False),
        sa.Column("expires", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("nonce"),
    )
    op.create_index(op.f("ix_nonces_expires"), "nonces", ["expires"], unique=False)
    op.create_table(
        "output_approvals",
        sa.Column("asset", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("asset", "digest"),
    )
    op.create_table(
        "outputs",
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("output", sa.String(), nullable=False),
        sa.Column("asset", sa.String(), nullable=False),
        sa.Column("agreement", sa.String(), nullable=False),
        sa.Column("line", sa.String(), nullable=False),
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("session_key", sa.String(), nullable=False),
        sa.Column("registered", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("run", "output"),
    )
    op.create_index(op.f("ix_outputs_asset"), "outputs", ["asset"], unique=False)
    op.create_index("output_newest", "outputs", ["line", "job", "output", "registered"], unique=False)
    op.create_table(
        "runs",
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("agreement", sa.String(), nullable=False),
        sa.Column("line", sa.String(), nullable=False),
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("party", sa.String(), nullable=False),
        sa.Column("request", sa.String(), nullable=False),
        sa.Column("parameters", sa.Text(), nullable=False),
        sa.Column("pinned", sa.Text(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("machine", sa.String(), nullable=False),
        sa.Column("simulated", sa.Integer(), nullable=False),
        sa.Column("reasons", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.String(), nullable=False),
        sa.Column("lease", sa.String(), nullable=False),
        sa.Column("released", sa.Integer(), nullable=False),
        sa.Column("refusals", sa.Integer(), nullable=False),
        sa.Column("created", sa.Integer(), nullable=False),
        sa.Column("ended", sa.Integer(), nullable=False),
        sa.Column("receipt", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("run"),
    )
    op.create_index("run_line", "runs", ["line", "job", "state"], unique=False)
    op.create_index("run_state", "runs", ["state"], unique=False)
    op.create_table(
        "suspensions",
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("suspended", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("subject"),
    )
    op.create_table(
        "usage",
        sa.Column("line", sa.String(), nullable=False),
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("runs", sa.Integer(), nullable=False),
        sa.Column("window", sa.Integer(), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("line", "job"),
    )
