"""Who witnesses a ledger: a witness's name in notes follows from its key, so nothing has to be agreed but the key."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from perunml.ledger.checkpoint import Checkpoint, parse_checkpoint
from perunml.ledger.cosignatures import cosign, verify_cosignature
from perunml.ledger.notes import Note, NoteKey, SignatureType, parse_note
from perunml.wire.identity import PublicKey, Signer


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A checkpoint that a witness cosigned; `time` by the witness's clock, seconds since 1970. That the ledger's own key signed
    it is not checked here: whoever keeps the ledger knows what it signed."""

    checkpoint: Checkpoint
    time: int
    line: str


def witness_key(key: PublicKey) -> NoteKey:
    """The witness as notes name it: ``perunml.witness/`` and 32 hex digits of its key text's SHA-256. Raises `ValueError` for
    a key that is not Ed25519."""
    name = "perunml.witness/" + hashlib.sha256(key.text.encode()).hexdigest()[:32]
    return NoteKey(name, key, SignatureType.COSIGNATURE_V1)


def sign_as_witness(note: Note, signer: Signer, time: int) -> Note:
    """`note` with the cosignature of `signer`; the caller has done `checkpoint.check_progress` and stored the checkpoint."""
    return cosign(note, witness_key(signer.public).name, signer, time)


def open_cosigned(text: str, key: PublicKey) -> Cosigned:
    """What the witness `key` cosigned. Raises `IntegrityError` (bad_checkpoint, bad_signature)."""
    note, named = parse_note(text), witness_key(key)
    time = verify_cosignature(note, named)
    line = next(str(found) for found in note.signatures if (found.name, found.id) == (named.name, named.id))
    return Cosigned(parse_checkpoint(note.text), time, line)
