"""Auditing: the manager's ledger as this party saw it, and receipts checked without asking anybody.

The newest checkpoint of each manager is kept. Whatever the manager shows later must contain it: a ledger that lost entries,
or shows two parties two histories, is found out by whoever asks next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from perunml.api.inference import ReceiptFile
from perunml.api.ledger import ConsistencyProof, EntryList, EntryView, InclusionProof
from perunml.api.pin import Pin
from perunml.client.connection import Connection
from perunml.client.home import Home, write_file
from perunml.ledger.checkpoint import Checkpoint, check_progress, open_checkpoint
from perunml.ledger.codes import BAD_LEAF
from perunml.ledger.entries import Entry, OpenedEntry, verify_chain
from perunml.ledger.merkle import leaf_hash
from perunml.ledger.proofs import verify_inclusion
from perunml.ledger.receipts import Receipt, open_receipt, verify_recorded
from perunml.wire.canonical import load_json
from perunml.wire.codes import MALFORMED
from perunml.wire.dsse import Envelope
from perunml.wire.errors import refuse
from perunml.wire.identity import PublicKey

MAX_CHECKPOINT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Audit:
    """What was checked: the ledger's size now and when last seen (None: never), and the entries of each agreement that
    were opened and proven to be in it."""

    size: int
    seen: int | None
    root: str
    agreements: Mapping[str, int]


def fresh_checkpoint(connection: Connection, home: Home) -> tuple[Checkpoint, int | None]:
    """The manager's newest checkpoint, proven to contain the one seen last, and kept; and that one's size. Raises
    `IntegrityError` (ledger_rollback, split_view, bad_consistency_proof, …)."""
    path, manager = home.checkpoint_path(connection.pin), PublicKey(connection.pin.identity)
    note = connection.raw("GET", "/v1/ledger/checkpoint", limit=MAX_CHECKPOINT).decode("utf-8", "replace")
    fresh = open_checkpoint(note, manager)
    seen = open_checkpoint(path.read_text(), manager) if path.exists() else None
    if seen is not None:
        proof: list[bytes] = []
        if 0 < seen.size < fresh.size:
            where = f"/v1/ledger/consistency?old={seen.size}&size={fresh.size}"
            proof = connection.call("GET", where, ConsistencyProof).hashes
        check_progress(seen, fresh, proof)
    write_file(path, note.encode())
    return fresh, None if seen is None else seen.size


def verify_ledger(connection: Connection, home: Home, agreements: list[str]) -> Audit:
    """The whole audit that this party can do alone: the ledger only grew, and each entry of `agreements` (digests) is
    what its leaf commits to, stands in the ledger, and follows the one before it."""
    checkpoint, seen = fresh_checkpoint(connection, home)
    counts = {}
    for agreement in agreements:
        shown = connection.call("GET", f"/v1/ledger/entries?agreement={quote(agreement)}", EntryList).entries
        opened = [_opened(item) for item in shown if item.index < checkpoint.size]
        verify_chain(agreement, opened)
        for item in opened:
            _prove(connection, checkpoint, item.index, leaf_hash(item.leaf))
        counts[agreement] = len(opened)
    return Audit(checkpoint.size, seen, checkpoint.root.hex(), counts)


def verify_receipt_recorded(connection: Connection, home: Home, receipt: Receipt) -> int:
    """That the ledger holds the receipt's entry; the size of the ledger it was checked against."""
    checkpoint, _ = fresh_checkpoint(connection, home)
    verify_recorded(receipt, checkpoint, _proof(connection, checkpoint, receipt.entry_index))
    return checkpoint.size


def _opened(item: EntryView) -> OpenedEntry:
    return OpenedEntry(item.index, item.leaf, item.salt, Entry.from_json(item.entry))


def _proof(connection: Connection, checkpoint: Checkpoint, index: int) -> list[bytes]:
    answer = connection.call("GET", f"/v1/ledger/proof?index={index}&size={checkpoint.size}", InclusionProof)
    if (answer.index, answer.size) != (index, checkpoint.size):
        raise refuse(BAD_LEAF, "a proof for something else", expected=str(index), seen=str(answer.index))
    return answer.hashes


def _prove(connection: Connection, checkpoint: Checkpoint, index: int, leaf: bytes) -> None:
    verify_inclusion(leaf, index, checkpoint.size, _proof(connection, checkpoint, index), checkpoint.root)


def verify_receipt_file(data: bytes, pin: Pin) -> dict[str, Any]:
    """The body of a receipt file, of a training run or of an answer, after every signature was checked against the
    pinned manager; offline. Raises `IntegrityError`."""
    value = load_json(data)
    if isinstance(value, dict) and set(value) == {"payloadType", "payload", "signatures"}:
        return open_receipt(Envelope.from_json(value), PublicKey(pin.identity)).as_json()
    if isinstance(value, dict) and "certificate" in value:
        from perunml.client.receipts import verify_receipt

        return dict(verify_receipt(ReceiptFile.decode(data), pin))
    raise refuse(MALFORMED, "not a receipt", expected="a Receipt's envelope, or a ReceiptFile")
