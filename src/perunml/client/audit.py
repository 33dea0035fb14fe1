"""Auditing: the manager's ledger as this party saw it, and receipts checked without asking anybody.

The newest checkpoint of each manager is kept. Whatever the manager shows later must contain it: a ledger that lost entries,
or shows two parties two histories, is found out by whoever asks next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from perunml.api.inference import ReceiptFile
from perunml.api.ledger import ConsistencyProof, EntryList, EntryView, InclusionProof
from perunml.api.pin import Pin
from perunml.client.connection import Connection
from perunml.client.home import Home, write_file
from perunml.ledger.checkpoint import Checkpoint, check_progress, open_checkpoint
from perunml.ledger.entries import Entry, OpenedEntry, verify_chain
from perunml.ledger.merkle import leaf_hash
from perunml.ledger.proofs import verify_inclusion
from perunml.ledger.receipts import Receipt, open_receipt, verify_recorded
from perunml.wire.canonical import canonical, load_json
from perunml.wire.codes import MALFORMED
from perunml.wire.dsse import Envelope
from perunml.wire.errors import refuse
from perunml.wire.identity import PublicKey

MAX_CHECKPOINT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Audit:
    """What was checked: the ledger's size now and when last seen (None: never); of each agreement all entries known by
    now; the receipts in the home folder whose entries the ledger holds."""

    size: int
    seen: int | None
    root: str
    agreements: Mapping[str, int]
    receipts: int


@dataclass(frozen=True, slots=True)
class Known:
    """An agreement's entries as checked so far: how many, and the newest one's index and hash."""

    count: int = 0
    index: int = -1
    hash: str = ""


def fresh_checkpoint(connection: Connection, home: Home) -> tuple[Checkpoint, int | None]:
    """The manager's newest checkpoint, proven to contain the one seen last, and kept; and that one's size. Raises
    `IntegrityError` (ledger_rollback, split_view, bad_consistency_proof, …)."""
    path, manager = home.checkpoint_path(connection.pin), PublicKey(connection.pin.identity)
    seen = seen_checkpoint(home, connection.pin)
    note = connection.raw("GET", "/v1/ledger/checkpoint", limit=MAX_CHECKPOINT).decode("utf-8", "replace")
    fresh = open_checkpoint(note, manager)
    if seen is not None:
        proof: list[bytes] = []
        if 0 < seen.size < fresh.size:
            where = f"/v1/ledger/consistency?old={seen.size}&size={fresh.size}"
            proof = connection.call("GET", where, ConsistencyProof).hashes
        check_progress(seen, fresh, proof)
    write_file(path, note.encode())
    return fresh, None if seen is None else seen.size


def seen_checkpoint(home: Home, pin: Pin) -> Checkpoint | None:
    """The checkpoint of this manager that was seen last. Raises `IntegrityError` (bad_checkpoint, bad_signature)."""
    path = home.checkpoint_path(pin)
    return open_checkpoint(path.read_text(), PublicKey(pin.identity)) if path.exists() else None


def verify_ledger(connection: Connection, home: Home, agreements: list[str]) -> Audit:
    """The whole audit that this party can do alone: the ledger only grew; each entry of `agreements` (digests) is what its
    leaf commits to, stands in the ledger, and follows the one before it; each receipt pulled before is recorded there.

    What was checked once is not fetched again: the checkpoints' consistency carries it over."""
    checkpoint, seen = fresh_checkpoint(connection, home)
    known = known_chains(home, connection.pin)
    for agreement in agreements:
        known[agreement] = _follow(connection, checkpoint, agreement, known.get(agreement, Known()))
    _save(home, connection.pin, known)
    receipts = list(kept_receipts(home, connection.pin))
    for receipt in receipts:
        verify_recorded(receipt, checkpoint, _proof(connection, checkpoint, receipt.entry_index))
    counts = {agreement: known[agreement].count for agreement in agreements}
    return Audit(checkpoint.size, seen, checkpoint.root.hex(), counts, len(receipts))


def _follow(connection: Connection, checkpoint: Checkpoint, agreement: str, known: Known) -> Known:
    """Check what was added to an agreement's chain since `known`, up to the checkpoint."""
    while True:
        where = f"/v1/ledger/entries?agreement={quote(agreement)}"
        where += f"&after={known.index}" if known.count else ""
        shown = connection.call("GET", where, EntryList).entries
        opened = [_opened(item) for item in shown if item.index < checkpoint.size]
        last = verify_chain(agreement, opened, previous=known.hash, after=known.index)
        for item in opened:
            proof = _proof(connection, checkpoint, item.index)
            verify_inclusion(leaf_hash(item.leaf), item.index, checkpoint.size, proof, checkpoint.root)
        if not opened:
            return known
        known = Known(known.count + len(opened), opened[-1].index, last)


def kept_receipts(home: Home, pin: Pin) -> Iterator[Receipt]:
    """The receipts of runs that lie in the home folder and are this manager's."""
    for path in sorted(home.receipts.glob("*.json")):
        value = load_json(path.read_bytes())
        if isinstance(value, dict) and "payload" in value:
            envelope = Envelope.from_json(value)
            if any(key == pin.identity for key, _ in envelope.signatures):
                yield open_receipt(envelope, PublicKey(pin.identity))


def _opened(item: EntryView) -> OpenedEntry:
    return OpenedEntry(item.index, item.leaf, item.salt, Entry.from_json(item.entry))


def _proof(connection: Connection, checkpoint: Checkpoint, index: int) -> list[bytes]:
    where = f"/v1/ledger/proof?index={index}&size={checkpoint.size}"
    return connection.call("GET", where, InclusionProof).hashes


def known_chains(home: Home, pin: Pin) -> dict[str, Known]:
    """Of each agreement (its digest) how far this home checked its entries."""
    path = home.chains_path(pin)
    if not path.exists():
        return {}
    return {name: Known(**item) for name, item in load_json(path.read_bytes()).items()}


def _save(home: Home, pin: Pin, known: Mapping[str, Known]) -> None:
    write_file(home.chains_path(pin), canonical({name: asdict(item) for name, item in known.items()}))


def verify_receipt_file(data: bytes, pin: Pin, answer: bytes | None = None) -> dict[str, Any]:
    """The body of a receipt file, of a training run or of an answer, after every signature was checked against the
    pinned manager; offline. `answer` must be the one of the receipt. Raises `IntegrityError`."""
    value = load_json(data)
    if answer is None and isinstance(value, dict) and set(value) == {"payloadType", "payload", "signatures"}:
        return open_receipt(Envelope.from_json(value), PublicKey(pin.identity)).as_json()
    if isinstance(value, dict) and "certificate" in value:
        from perunml.client.receipts import verify_receipt

        return dict(verify_receipt(ReceiptFile.decode(data), pin, answer=answer))
    raise refuse(MALFORMED, "not a receipt", expected="a Receipt's envelope, or a ReceiptFile")
