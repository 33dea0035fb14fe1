"""PEM (RFC 7468): certificates and revocation lists as people keep them, with words around and several in one file."""

from __future__ import annotations

import base64
import binascii
import re

from perunml.evidence.codes import NON_CANONICAL
from perunml.wire.errors import refuse

CERTIFICATE, REVOCATIONS = "CERTIFICATE", "X509 CRL"
MAX_FILE = 4 * 1024 * 1024
"""Bytes of one file; the largest published list of TPM vendors' issuers has a twelfth of it."""


def blocks(data: bytes, label: str) -> list[bytes]:
    """The DER in each block of this label. Raises `EvidenceRefusal` (non_canonical): a block that is none, too long a file."""
    if len(data) > MAX_FILE:
        raise refuse(NON_CANONICAL, "a file of certificates is too large", expected=f"at most {MAX_FILE} bytes")
    begin, end = f"-----BEGIN {label}-----".encode(), f"-----END {label}-----".encode()
    found = []
    for piece in data.split(begin)[1:]:
        body, ending, _ = piece.partition(end)
        try:
            found.append(base64.b64decode(re.sub(rb"\s+", b"", body), validate=True))
        except binascii.Error:
            ending = b""
        if not ending:
            raise refuse(NON_CANONICAL, f"a PEM block that is none: {label}")
    return found


def is_pem(data: bytes) -> bool:
    """Whether it is text with PEM blocks, and not DER, which begins with a SEQUENCE's tag."""
    return not data.startswith(b"\x30") and b"-----BEGIN " in data


def unarmoured(data: bytes, label: str) -> bytes:
    """The one block's DER, or the data as they are, if they are no PEM. Raises `EvidenceRefusal` (non_canonical)."""
    if not is_pem(data):
        return data
    found = blocks(data, label)
    if len(found) != 1:
        raise refuse(NON_CANONICAL, f"not one PEM block: {label}", seen=str(len(found)))
    return found[0]


def split(data: bytes, label: str = CERTIFICATE) -> list[bytes]:
    """All of a file's certificates (or lists): a PEM file holds one or more, a DER file is one. Raises `EvidenceRefusal`
    (non_canonical)."""
    return blocks(data, label) if is_pem(data) else [data]
