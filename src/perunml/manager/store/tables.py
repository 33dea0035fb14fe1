"""The tables. Plain types only (text, integers, bytes): JSON is canonical text, times are seconds, so that a row means the
same in every database. The schema is made by the migrations; a test compares the two."""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    text,
)

metadata = MetaData()

admitted = Table("admitted", metadata, Column("key", String, primary_key=True), Column("time", Integer, nullable=False))
"""Keys that may talk to this manager before any agreement names them (docs/decisions/0004)."""

nonces = Table(
    "nonces",
    metadata,
    Column("nonce", String, primary_key=True),
    Column("expires", Integer, nullable=False, index=True),
)
"""Nonces of signed requests, until they expire."""

documents = Table(
    "documents",
    metadata,
    Column("digest", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
)

agreements = Table(
    "agreements",
    metadata,
    Column("digest", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("line", String, nullable=False, index=True),  # digest of version 1: names the agreement over its versions
    Column("predecessor", String, nullable=False),
    Column("state", String, nullable=False),  # proposed | in_force | superseded
    Column("envelope", LargeBinary, nullable=False),
)

agreement_keys = Table(
    "agreement_keys",
    metadata,
    Column("key", String, nullable=False),
    Column("agreement", String, nullable=False),
    Column("party", String, nullable=False),
    PrimaryKeyConstraint("key", "agreement"),
)
"""Whose keys stand in which agreement."""

approvals = Table(
    "approvals",
    metadata,
    Column("digest", String, nullable=False),  # of payload and signatures: one body may be signed by several keys
    Column("agreement", String, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    PrimaryKeyConstraint("agreement", "digest"),
)

changes = Table(
    "changes",
    metadata,
    Column("digest", String, primary_key=True),
    Column("subject", String, nullable=False, index=True),
    Column("position", Integer, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
)
"""Suspensions and their liftings, in order."""

suspensions = Table(
    "suspensions",
    metadata,
    Column("subject", String, primary_key=True),
    Column("suspended", Integer, nullable=False),
    Column("digest", String, nullable=False),
)
"""What the changes of each asset add up to."""

assets = Table(
    "assets",
    metadata,
    Column("digest", String, primary_key=True),
    Column("asset_id", String, nullable=False, index=True),
    Column("name", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("owner", String, nullable=False),
    Column("size", Integer, nullable=False),
    Column("complete", Integer, nullable=False),
    Column("manifest", LargeBinary, nullable=False),
    Column("kept", LargeBinary, nullable=False),  # the data key under custody; empty for outputs (derived)
    Column("run", String, nullable=False),  # of an output, else ""
    Column("output", String, nullable=False),
    Column("store", String, nullable=False, server_default=""),  # "" for the folder
    Index("checkpoints_only", "run", sqlite_where=text("kind = 'checkpoint'")),
)

blobs = Table(
    "blobs",
    metadata,
    Column("asset", String, nullable=False),
    Column("blob", String, nullable=False),
    Column("size", Integer, nullable=False),  # ciphertext bytes
    Column("received", Integer, nullable=False),  # of them durable
    PrimaryKeyConstraint("asset", "blob"),
)

machines = Table(
    "machines",
    metadata,
    Column("id", String, primary_key=True),
    Column("simulated", Integer, nullable=False),
    Column("name", String, nullable=False),
    Column("operator", String, nullable=False),
    Column("ek", LargeBinary, nullable=False),
    Column("ak", LargeBinary, nullable=False),
    Column("key", String, nullable=False),
    Column("tls_key", String, nullable=False),
    Column("enrolments", Integer, nullable=False),
    Column("clock", String, nullable=False),  # canonical [reset, restart, milliseconds as decimal string] or ""
    Column("boot", String, nullable=False),
    Column("log_size", Integer, nullable=False),  # bytes kept of this boot's log
    Column("boot_line", String, nullable=False),  # the agreement (its line) that had keys in this boot
    Column("boot_agreement", String, nullable=False),  # and its digest
    Column("boot_shared", Integer, nullable=False),
    Column("tpm", Text, nullable=False, server_default="{}"),  # canonical claims of its EK certificate
    Column("instance", String, nullable=False, server_default=""),  # of a cloud, where its key's certificate named one
    Column(
        "void", Text, nullable=False, server_default="[]"
    ),  # canonical: agreements approved before its TPM was cleared
    Column("binder", LargeBinary, nullable=False, server_default=text("X''")),  # TPM2B_PUBLIC, or empty
    Index("machine_name", "operator", "name", unique=True),
)

logs = Table(
    "logs",
    metadata,
    Column("machine", String, nullable=False),
    Column("boot", String, nullable=False),
    Column("start", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
    PrimaryKeyConstraint("machine", "boot", "start"),
)
"""The IMA log of each machine's newest boot, in the pieces in which it came."""

runs = Table(
    "runs",
    metadata,
    Column("run", String, primary_key=True),
    Column("agreement", String, nullable=False),
    Column("line", String, nullable=False),
    Column("job", String, nullable=False),
    Column("kind", String, nullable=False),  # train | serve
    Column("party", String, nullable=False),
    Column("request", String, nullable=False),  # digest of the request's payload
    Column("parameters", Text, nullable=False),
    Column("pinned", Text, nullable=False),  # canonical {asset name: digest}
    Column("state", String, nullable=False),
    Column("machine", String, nullable=False),
    Column("simulated", Integer, nullable=False),
    Column("reasons", Text, nullable=False),
    Column("endpoint", String, nullable=False),
    Column("lease", String, nullable=False),
    Column("released", Integer, nullable=False),  # how often its keys were
    Column("refusals", Integer, nullable=False),  # of its hosts' evidence, in a row
    Column("created", Integer, nullable=False),
    Column("ended", Integer, nullable=False),
    Column("receipt", LargeBinary, nullable=False),
    # Of the runs that wait alone: they are the ones looked for, and one that is taken leaves two pages, not four.
    Index("run_waiting", "state", sqlite_where=text("state = 'queued'")),
    Index("run_waiting_line", "line", sqlite_where=text("state = 'queued'")),
)

leases = Table(
    "leases",
    metadata,
    Column("lease", String, primary_key=True),
    Column("run", String, nullable=False),
    Column("machine", String, nullable=False),
    Column("role", String, nullable=False),
    Column("agreement", String, nullable=False),
    Column("session_key", String, nullable=False),
    Column("session_hpke", String, nullable=False),
    Column("active", Integer, nullable=False, index=True),
    Column("steady", Float, nullable=False),
    Column("wall", Float, nullable=False),
    Column("boot", String, nullable=False),
    Column("seconds", Integer, nullable=False),
    Column("nonce", LargeBinary, nullable=False),  # of the next renewal or finish
    Column("clock", String, nullable=False),  # the machine's clock when that nonce was given out
    Column("log", Integer, nullable=False),  # and how long its log was
    Column("asked", String, nullable=False),  # digest of the last request that was answered
    Column("answer", LargeBinary, nullable=False),  # and the answer, given again to the same request
    Column("started", Integer, nullable=False),  # when its keys were released
    Column("grants", Text, nullable=False),  # canonical {input name: digest of the asset released}
    Column(
        "verdict", Text, nullable=False
    ),  # canonical {profile, imitates, simulated, sentences, counted: [condition]}
)

outputs = Table(
    "outputs",
    metadata,
    Column("run", String, nullable=False),
    Column("output", String, nullable=False),
    Column("asset", String, nullable=False, index=True),
    Column("agreement", String, nullable=False),
    Column("line", String, nullable=False),
    Column("job", String, nullable=False),
    Column("session_key", String, nullable=False),
    Column("registered", Integer, nullable=False),  # 1 after finish
    PrimaryKeyConstraint("run", "output"),
    Index("output_newest", "line", "job", "output", "registered"),
)

output_approvals = Table(
    "output_approvals",
    metadata,
    Column("asset", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    PrimaryKeyConstraint("asset", "digest"),
)

usage = Table(
    "usage",
    metadata,
    Column("line", String, nullable=False),
    Column("job", String, nullable=False),
    Column("runs", Integer, nullable=False),
    Column("window", Integer, nullable=False),  # of requests: its start
    Column("requests", Integer, nullable=False),
    PrimaryKeyConstraint("line", "job"),
)

entries = Table(
    "entries",
    metadata,
    Column("position", Integer, primary_key=True),
    Column("agreement", String, nullable=False, index=True),
    Column("leaf", LargeBinary, nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("entry", Text, nullable=False),
)

heads = Table(
    "heads",
    metadata,
    Column("agreement", String, primary_key=True),
    Column("hash", String, nullable=False),
)
"""The newest entry of each agreement's chain."""

nodes = Table(
    "nodes",
    metadata,
    Column("level", Integer, nullable=False),
    Column("position", Integer, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    PrimaryKeyConstraint("level", "position"),
    sqlite_with_rowid=False,
)

checkpoint = Table(
    "checkpoint",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("size", Integer, nullable=False),
    Column("time", Integer, nullable=False),
    Column("note", Text, nullable=False),
)
"""One row: the newest signed checkpoint."""

collateral_seen = Table(
    "collateral_seen",
    metadata,
    Column("name", String, primary_key=True),  # tdx:<FMSPC>, qe:tdx
    Column("number", Integer, nullable=False),
    Column("issued", Integer, nullable=False),  # seconds since 1970
)

withdrawals = Table(
    "withdrawals",
    metadata,
    Column("agreement", String, nullable=False),
    Column("digest", String, nullable=False),  # of payload and signatures
    Column("envelope", LargeBinary, nullable=False),
    PrimaryKeyConstraint("agreement", "digest"),
)
"""Approvals taken back before their agreement was in force."""

requests = Table(
    "requests",
    metadata,
    Column("run", String, primary_key=True),
    Column("envelope", LargeBinary, nullable=False),
)
"""Signed requests for runs, for whoever audits."""

conditions = Table(
    "conditions",
    metadata,
    Column("digest", String, primary_key=True),
    Column("subject", String, nullable=False, index=True),
    Column("position", Integer, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
)
"""Changes of owners' conditions on their assets, in order."""

stores = Table(
    "stores", metadata, Column("name", String, primary_key=True),
    *(Column(name, String, nullable=False) for name in ("url", "bucket", "prefix", "region")),
    Column("kept", LargeBinary, nullable=False),
)  # fmt: skip
"""Buckets for assets' blobs; the credentials under custody, bound to the rest."""

condition_usage = Table(
    "condition_usage",
    metadata,
    Column("condition", String, primary_key=True),
    Column("runs", Integer, nullable=False),
)
"""Runs released since a condition that counts them was added."""

witness_keys = Table(
    "witness_keys",
    metadata,
    Column("key", String, nullable=False),
    Column("agreement", String, nullable=False),
    Column("name", String, nullable=False),
    PrimaryKeyConstraint("key", "agreement"),
)
"""Keys that an agreement names as witnesses and that are no party's."""

cosignatures = Table(
    "cosignatures",
    metadata,
    Column("key", String, nullable=False),
    Column("size", Integer, nullable=False),
    Column("time", Integer, nullable=False),  # as the witness says, seconds since 1970
    Column("line", Text, nullable=False),
    PrimaryKeyConstraint("key", "size"),
)
"""Witnesses' first cosignature of each size that they signed; kept for audits, decisions count those of this process alone."""

shares = Table(
    "shares",
    metadata,
    Column("asset", String, primary_key=True),
    Column("line", String, primary_key=True),
    Column("entry", Integer, nullable=False),
    Column("holders", String, nullable=False),  # digest of who they were, with which receiving keys
    Column("envelope", LargeBinary, nullable=False),
)
"""How outputs' keys were split: the newest document of each, its shares sealed to their parties."""

recoveries = Table(
    "recoveries",
    metadata,
    Column("asset", String, nullable=False),
    Column("line", String, nullable=False),
    Column("shares", String, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("receipt", LargeBinary, nullable=False),
    Column("recovered", Integer, nullable=False),
    Column("kept", LargeBinary, nullable=False),  # the key under custody, for this line alone; empty until recovered
    PrimaryKeyConstraint("asset", "line"),
)
"""Outputs of lost managers that an agreement here may take over."""

given_shares = Table(
    "given_shares",
    metadata,
    Column("asset", String, nullable=False),
    Column("line", String, nullable=False),
    Column("shares", String, nullable=False),
    Column("party", String, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("kept", LargeBinary, nullable=False),  # the share under custody; empty once it is needed no more
    PrimaryKeyConstraint("asset", "line", "shares", "party"),
)
"""Shares that parties gave for them."""

facts = Table("facts", metadata, Column("name", String, primary_key=True), Column("value", Text, nullable=False))
"""Small facts about this manager: a rollback that was shown to it, its epoch, its intake key's generation."""
