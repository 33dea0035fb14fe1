"""Files of evidence that people pass around: the bytes, or the same in hex."""

from __future__ import annotations

import binascii

from perunml.evidence.codes import NON_CANONICAL
from perunml.wire.errors import refuse

_HEX = frozenset(b"0123456789abcdefABCDEF")


def raw_or_hex(data: bytes, limit: int, what: str) -> bytes:
    """The bytes of a file that has them raw or in hex (with spaces, lines or ``0x`` as people write it), at most `limit`.
    Raises `EvidenceRefusal` (non_canonical)."""
    text = b"".join(data.split()).removeprefix(b"0x") if len(data) <= 4 * limit else b""
    if text and _HEX.issuperset(text):
        try:
            data = binascii.unhexlify(text)
        except binascii.Error:
            raise refuse(NON_CANONICAL, f"{what} is hexadecimal with half a byte") from None
    if len(data) > limit:
        raise refuse(NON_CANONICAL, f"{what} is too long", expected=f"at most {limit} bytes", seen=f"{len(data)} bytes")
    return data
