"""Reading the ledger: GET /v1/ledger/checkpoint, /v1/ledger/tile/…, /v1/ledger/entries?agreement=&after=&documents=1,
/v1/ledger/proof, /v1/ledger/consistency, /v1/ledger/cosignatures."""

from __future__ import annotations

from pydantic import Field

from perunml.api.base import B64, Document, Message, Signed


class EntryView(Message):
    """One entry, opened for a party entitled to it: the leaf at `index` commits to `entry` under `salt`."""

    index: int
    leaf: B64
    salt: B64
    entry: Document


class EntryList(Message):
    """`documents`, when they were asked for: what the entries name by digest, and receipts, as far as the caller may read them."""

    checkpoint: str
    entries: list[EntryView]
    documents: list[Signed] = Field(default_factory=list)


class CosignatureView(Message):
    """A witness's first cosignature of this size: its `line` of the note over the ledger's first `size` entries."""

    key: str
    size: int
    line: str


class CosignatureList(Message):
    """GET /v1/ledger/cosignatures?agreement=&after=: of the agreement's witnesses. `after` asks for what follows; 0 when that was all."""

    cosignatures: list[CosignatureView]
    after: int = 0


class InclusionProof(Message):
    """GET /v1/ledger/proof?index=&size=: hashes from leaf to root, 32 bytes each."""

    index: int
    size: int
    hashes: list[B64]
    checkpoint: str


class ConsistencyProof(Message):
    """GET /v1/ledger/consistency?old=&size="""

    old: int
    size: int
    hashes: list[B64]
    checkpoint: str
