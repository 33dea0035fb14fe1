"""Reading the ledger: GET /v1/ledger/checkpoint, /v1/ledger/tile/…, /v1/ledger/entries?agreement=, /v1/ledger/proof."""

from __future__ import annotations

from perunml.api.base import B64, Document, Message


class EntryView(Message):
    """One entry, opened for a party entitled to it: the leaf at `index` commits to `entry` under `salt`."""

    index: int
    leaf: B64
    salt: B64
    entry: Document


class EntryList(Message):
    checkpoint: str
    entries: list[EntryView]


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
