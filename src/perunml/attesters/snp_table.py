"""The certificates that a hypervisor hands out beside an SEV-SNP report (GHCB specification 2.03, 4.1.8.1: `cert_table`).

Entries of GUID, offset and length, closed by one of zeros; certificates lie behind. The hypervisor is not trusted: what it
hands out saves the manager a look-up and proves nothing, so a table that is odd is refused only for its own form.
"""

from __future__ import annotations

import struct
import uuid

from perunml.attesters.codes import ODD_ANSWER
from perunml.evidence import pem
from perunml.evidence.parts import MAX_CERTIFICATE, MAX_CERTIFICATES
from perunml.wire.errors import PerunError, refuse

ENTRY = struct.Struct("<16sII")
MAX_ENTRIES = 64
"""Four are known, others are a hypervisor's own."""
WANTED = tuple(
    uuid.UUID(text)
    for text in (
        "63da758d-e664-4564-adc5-f4b93be8accd",  # VCEK
        "a8074bc2-a25a-483e-aae6-39c045a0b8a1",  # VLEK
        "4ab7b379-bbac-4fe4-a02f-05aef327c782",  # ASK, or ASVK above a VLEK
        "c0b406a4-a803-4952-9743-3fb6014cd0ae",  # ARK
    )
)
"""In the order in which they are sent: the leaf first."""


def certificates(table: bytes) -> tuple[bytes, ...]:
    """AMD's certificates (DER) of a table, the leaf first; none for an empty table, or one of zeros. Raises `EvidenceRefusal`
    (odd_answer)."""
    found: dict[uuid.UUID, bytes] = {}
    if not any(table):
        return ()
    for name, data in _entries(table):
        # hosts differ in the order of a GUID's bytes; none of the four is another one backwards
        for guid in (uuid.UUID(bytes=name), uuid.UUID(bytes_le=name)):
            if guid in WANTED:
                if guid in found:
                    raise _odd("a certificate comes twice", str(guid))
                found[guid] = data
    ders = tuple(der for guid in WANTED if guid in found for der in _ders(found[guid]))
    if len(ders) > MAX_CERTIFICATES:
        raise _odd("too many certificates", str(len(ders)))
    return ders


def _entries(table: bytes) -> list[tuple[bytes, bytes]]:
    entries: list[tuple[bytes, bytes]] = []
    for index in range(MAX_ENTRIES):
        if (index + 1) * ENTRY.size > len(table):
            raise _odd("the table has no end", f"{len(table)} bytes")
        name, offset, length = ENTRY.unpack_from(table, index * ENTRY.size)
        if not any(name):
            return entries
        if offset + length > len(table):
            raise _odd("an entry points outside of the table", f"{offset} + {length} of {len(table)}")
        entries.append((name, table[offset : offset + length]))
    raise _odd("the table has too many entries", f"more than {MAX_ENTRIES}")


def _ders(data: bytes) -> list[bytes]:
    """DER as the specification has it; some hosts put in PEM. What pads a certificate to its slot is cut off."""
    try:
        found = pem.split(data)
    except PerunError:
        raise _odd("a certificate is neither DER nor PEM", data[:16].hex()) from None
    return [_exact(der) for der in found]


def _exact(der: bytes) -> bytes:
    size = 4 + int.from_bytes(der[2:4])
    if der[:2] != b"\x30\x82" or not 4 < size <= min(len(der), MAX_CERTIFICATE):
        raise _odd("a certificate is neither DER nor PEM", der[:16].hex())
    return der[:size]


def _odd(what: str, seen: str) -> PerunError:
    return refuse(ODD_ANSWER, f"the hypervisor's certificate table: {what}", seen=seen)
