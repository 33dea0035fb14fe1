"""Signed notes (C2SP signed-note): text, an empty line, and lines of signatures.

Only Ed25519 (signature type 0x01) and timestamped Ed25519 cosignatures (type 0x04, C2SP tlog-cosignature) are read; lines of
other keys are kept as they are and count for nothing, as the specification asks.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import re
from dataclasses import dataclass, replace

from perunml.ledger.codes import BAD_CHECKPOINT
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import refuse
from perunml.wire.identity import PublicKey, Signer

MAX_NOTE = 64 * 1024
"""Longest note read, in bytes. Our own have a kilobyte; 100 witnesses make 12."""
MAX_SIGNATURES = 100
"""C2SP signed-note, "Format": a verifier limits them, and accepts at least 16."""
_LINE = re.compile(r"— (?P<name>[^\s+]+) (?P<data>[A-Za-z0-9+/=]+)")


class SignatureType(enum.IntEnum):
    """C2SP signed-note, "Signature types"."""

    ED25519 = 0x01
    COSIGNATURE_V1 = 0x04


@dataclass(frozen=True, slots=True)
class NoteKey:
    """A named key that signs notes. `id` is how signature lines name it; it is a hint, not proof."""

    name: str
    key: PublicKey
    type: SignatureType = SignatureType.ED25519

    def __post_init__(self) -> None:
        if not self.name or not self.name.isprintable() or re.search(r"[\s+]", self.name):
            raise ValueError("a note key's name is not empty and holds no space and no plus")
        if self.key.algorithm != "ed25519":
            raise ValueError("notes are signed with Ed25519")

    @property
    def id(self) -> bytes:
        """SHA-256(name || 0x0A || type || public key), first 4 bytes."""
        return hashlib.sha256(self.name.encode() + b"\n" + self._typed()).digest()[:4]

    @property
    def text(self) -> str:
        """The encoded verifier key: ``<name>+<hex id>+<base64 of type and key>``."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(self._typed()).decode()}"

    @classmethod
    def parse(cls, text: str) -> NoteKey:
        """From `text`. Raises `IntegrityError` (bad_checkpoint)."""
        try:
            name, key_id, data = text.split("+", 2)
            raw = base64.b64decode(data, validate=True)
            if len(raw) != 33:
                raise ValueError
            made = cls(name, PublicKey("ed25519:" + b64(raw[1:])), SignatureType(raw[0]))
        except (ValueError, binascii.Error):
            raise refuse(BAD_CHECKPOINT, "not a note's key", expected="<name>+<id>+<key>", seen=text[:80]) from None
        if made.text != text or key_id != made.id.hex():
            raise refuse(BAD_CHECKPOINT, "a note's key does not have the id it claims", seen=text[:80])
        return made

    def _typed(self) -> bytes:
        return bytes([self.type]) + unb64(self.key.text.partition(":")[2], size=32)


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line: `data` is what follows the 4 bytes of key id."""

    name: str
    id: bytes
    data: bytes

    def __str__(self) -> str:
        return f"— {self.name} {base64.b64encode(self.id + self.data).decode()}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A note as it stands, its signatures NOT checked. `text` ends in a newline."""

    text: str
    signatures: tuple[NoteSignature, ...] = ()

    def __str__(self) -> str:
        return self.text + "\n" + "".join(map(str, self.signatures))

    def of(self, key: NoteKey) -> bytes:
        """The signature data of the one line that claims `key`. Raises `IntegrityError` (bad_checkpoint): none, or two."""
        found = [s.data for s in self.signatures if s.name == key.name and s.id == key.id]
        if len(found) != 1:
            raise refuse(BAD_CHECKPOINT, f"the note has {len(found)} signatures by {key.name}", expected="one")
        return found[0]

    def verify(self, key: NoteKey) -> None:
        """Raises `IntegrityError` (bad_checkpoint, bad_signature) unless `key` signed the text (type 0x01)."""
        if key.type is not SignatureType.ED25519:
            raise ValueError("a cosignature is checked by perunml.ledger.cosignatures")
        key.key.verify(self.of(key), self.text.encode())

    def with_signature(self, key: NoteKey, data: bytes) -> Note:
        """With one more line; an older line of the same key is replaced."""
        kept = tuple(s for s in self.signatures if (s.name, s.id) != (key.name, key.id))
        return replace(self, signatures=(*kept, NoteSignature(key.name, key.id, data)))


def parse_note(text: str) -> Note:
    """The parts of a signed note. Raises `IntegrityError` (bad_checkpoint): no signature, a line not of its form, control
    characters, too long."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_NOTE:
        raise refuse(BAD_CHECKPOINT, f"a note longer than {MAX_NOTE} bytes")
    if any((c < " " and c != "\n") or "\ud800" <= c <= "\udfff" for c in text):
        raise refuse(BAD_CHECKPOINT, "a note with control characters")
    body, gap, tail = text.rpartition("\n\n")
    if not gap or not body or not tail.endswith("\n"):
        raise refuse(BAD_CHECKPOINT, "not a signed note")
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise refuse(BAD_CHECKPOINT, f"a note with more than {MAX_SIGNATURES} signatures")
    return Note(body + "\n", tuple(_signature(line) for line in lines))


def sign_note(text: str, name: str, signer: Signer) -> Note:
    """A note over `text` (which ends in a newline), signed by `signer` as `name` (type 0x01)."""
    if not text.endswith("\n") or text.startswith("\n") or any(c < " " and c != "\n" for c in text):
        raise ValueError("a note's text ends in a newline and holds no control characters")
    key = NoteKey(name, signer.public)
    return Note(text).with_signature(key, signer.sign(text.encode()))


def _signature(line: str) -> NoteSignature:
    found = _LINE.fullmatch(line)
    try:
        if found is None:
            raise ValueError
        raw = base64.b64decode(found["data"], validate=True)
        if len(raw) < 5 or base64.b64encode(raw).decode() != found["data"]:
            raise ValueError
    except (ValueError, binascii.Error):
        raise refuse(BAD_CHECKPOINT, "a signature line of the note is not of its form", seen=line[:80]) from None
    return NoteSignature(found["name"], raw[:4], raw[4:])
