"""Checkpoints (C2SP tlog-checkpoint): a ledger's size and root, as a note signed by the manager.

The origin line names the ledger and is derived from the manager's key, so a pin of the key is a pin of the ledger.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass

from perunml.ledger.codes import BAD_CHECKPOINT, LEDGER_ROLLBACK, SPLIT_VIEW
from perunml.ledger.merkle import HASH_SIZE, MAX_SIZE
from perunml.ledger.notes import Note, NoteKey, parse_note, sign_note
from perunml.ledger.proofs import verify_consistency
from perunml.wire.errors import refuse
from perunml.wire.identity import PublicKey, Signer

_SIZE = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII)


def origin(manager: PublicKey) -> str:
    """The name of this manager's ledger: ``perunml.ledger/`` and 32 hex digits of its key text's SHA-256."""
    return "perunml.ledger/" + hashlib.sha256(manager.text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A ledger's state: `root` (32 bytes) over its first `size` leaves. `extensions` are further lines, opaque to us."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The note's text."""
        lines = [self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions]
        return "\n".join(lines) + "\n"


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint in a note's text, its signatures NOT checked. Raises `IntegrityError` (bad_checkpoint)."""
    lines = text.split("\n")
    if len(lines) < 4 or lines.pop() != "" or not all(lines) or not _SIZE.fullmatch(lines[1]):
        raise refuse(BAD_CHECKPOINT, "not a checkpoint", expected="origin, size, root")
    try:
        made = Checkpoint(lines[0], int(lines[1]), base64.b64decode(lines[2], validate=True), tuple(lines[3:]))
    except (ValueError, binascii.Error):
        raise refuse(BAD_CHECKPOINT, "the root in a checkpoint is not base64") from None
    if made.size > MAX_SIZE or len(made.root) != HASH_SIZE or made.text != text:
        raise refuse(BAD_CHECKPOINT, "the size or root in a checkpoint is not of its form")
    return made


def sign_checkpoint(size: int, root: bytes, signer: Signer) -> str:
    """The signed note of this manager's ledger at `size` under `root`."""
    if len(root) != HASH_SIZE or not 0 <= size <= MAX_SIZE:
        raise ValueError("not a ledger's size and root")
    name = origin(signer.public)
    return str(sign_note(Checkpoint(name, size, root).text, name, signer))


def open_checkpoint(note: str, manager: PublicKey) -> Checkpoint:
    """The checkpoint, after its manager's signature. Raises `IntegrityError` (bad_checkpoint, bad_signature): malformed,
    another ledger's, not signed."""
    return read_checkpoint(parse_note(note), manager)


def read_checkpoint(note: Note, manager: PublicKey) -> Checkpoint:
    """As `open_checkpoint`, of a note already parsed."""
    name = origin(manager)
    if manager.algorithm != "ed25519":
        raise refuse(BAD_CHECKPOINT, "a ledger's key is Ed25519", seen=manager.text)
    found = parse_checkpoint(note.text)
    if found.origin != name:
        raise refuse(BAD_CHECKPOINT, "the checkpoint is another ledger's", expected=name, seen=found.origin)
    note.verify(NoteKey(name, manager))
    return found


def check_progress(seen: Checkpoint, fresh: Checkpoint, proof: Sequence[bytes]) -> None:
    """What each party checks whenever it sees a checkpoint: `fresh` only adds to the `seen` one. Raises
    `IntegrityError`: another ledger's (bad_checkpoint), fewer entries (ledger_rollback), one size and two roots
    (split_view), or a proof that fails (bad_consistency_proof)."""
    if seen.origin != fresh.origin:
        raise refuse(BAD_CHECKPOINT, "the checkpoint is another ledger's", expected=seen.origin, seen=fresh.origin)
    if fresh.size < seen.size:
        raise refuse(
            LEDGER_ROLLBACK, "the ledger lost entries", expected=f"{seen.size} or more", seen=f"{fresh.size} entries"
        )
    if fresh.size == seen.size and not hmac.compare_digest(fresh.root, seen.root):
        raise refuse(
            SPLIT_VIEW,
            f"two histories of {seen.size} entries",
            expected=base64.b64encode(seen.root).decode(),
            seen=base64.b64encode(fresh.root).decode(),
        )
    verify_consistency(seen.size, fresh.size, proof, seen.root, fresh.root)
