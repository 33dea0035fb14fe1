"""base64url without padding, in one spelling only."""

from __future__ import annotations

import binascii

from perunml.wire.codes import MALFORMED
from perunml.wire.errors import refuse

_TO_URL = bytes.maketrans(b"+/", b"-_")
# What only plain base64 has becomes what no base64 has.
_FROM_URL = bytes.maketrans(b"-_+/", b"+/!!")


def b64(data: bytes | bytearray | memoryview) -> str:
    """base64url without padding (RFC 4648 section 5)."""
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL).rstrip(b"=").decode("ascii")


def unb64(text: str, *, size: int | None = None) -> bytes:
    """The bytes of base64url text; `size` demands a length. Raises `UsageError` (malformed) for padding, other alphabets,
    and stray low bits, so that each value has exactly one spelling."""
    try:
        padded = text.encode("ascii").translate(_FROM_URL) + b"=" * (-len(text) % 4)
        data = binascii.a2b_base64(padded, strict_mode=True)
    except (ValueError, binascii.Error, AttributeError):
        raise refuse(MALFORMED, "not base64url without padding", seen=str(text)[:40]) from None
    if b64(data) != text:
        raise refuse(MALFORMED, "not the one spelling of base64url", seen=text[:40])
    if size is not None and len(data) != size:
        raise refuse(MALFORMED, "value of a wrong length", expected=f"{size} bytes", seen=f"{len(data)} bytes")
    return data
