"""Cosignatures (C2SP tlog-cosignature, v1 with Ed25519): a witness says that it saw a checkpoint, and when.

A witness cosigns only after `checkpoint.check_progress` against the last checkpoint it cosigned; that is its whole duty.
"""

from __future__ import annotations

from collections.abc import Iterable

from perunml.ledger.checkpoint import parse_checkpoint
from perunml.ledger.codes import BAD_CHECKPOINT
from perunml.ledger.notes import Note, NoteKey, SignatureType
from perunml.wire.errors import refuse
from perunml.wire.identity import Signer

_DATA = 8 + 64
"""Timestamp, 64 bits big-endian, and an Ed25519 signature."""
MAX_TIME = 2**53 - 1


def cosign(note: Note, name: str, signer: Signer, time: int) -> Note:
    """`note` with the witness's cosignature; `time` in seconds since the epoch. Raises `IntegrityError` (bad_checkpoint)
    for a note that is not a checkpoint."""
    parse_checkpoint(note.text)
    if not 0 < time <= MAX_TIME:
        raise ValueError("time out of range")
    key = NoteKey(name, signer.public, SignatureType.COSIGNATURE_V1)
    return note.with_signature(key, time.to_bytes(8) + signer.sign(_message(note.text, time)))


def verify_cosignature(note: Note, key: NoteKey) -> int:
    """When the witness `key` saw the checkpoint, in seconds since the epoch. Raises `IntegrityError` (bad_checkpoint,
    bad_signature): it did not cosign, or not this."""
    if key.type is not SignatureType.COSIGNATURE_V1:
        raise ValueError("not a witness's key")
    data = note.of(key)
    if len(data) != _DATA:
        raise refuse(BAD_CHECKPOINT, "a cosignature of a wrong length", expected=f"{_DATA} bytes", seen=str(len(data)))
    time = int.from_bytes(data[:8])
    if not 0 < time <= MAX_TIME:
        raise refuse(BAD_CHECKPOINT, "a cosignature's time is out of range")
    key.key.verify(data[8:], _message(note.text, time))
    return time


def cosignatures(note: Note, witnesses: Iterable[NoteKey]) -> dict[str, int]:
    """Name -> time of those `witnesses` that cosigned; the others are left out, for the caller to count its quorum.
    A line that claims a witness and does not verify raises, as `verify_cosignature` does."""
    claimed = {(s.name, s.id) for s in note.signatures}
    return {key.name: verify_cosignature(note, key) for key in witnesses if (key.name, key.id) in claimed}


def _message(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()
