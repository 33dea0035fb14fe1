"""Digests as text: ``sha256:`` and 64 lower-case hex digits, everywhere."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from perunml.wire.canonical import canonical
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import refuse

_FORM = re.compile(r"sha256:[0-9a-f]{64}")


def digest(data: bytes | bytearray | memoryview) -> str:
    """``sha256:<hex>`` of bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_of(value: Any) -> str:
    """``sha256:<hex>`` of the RFC 8785 form of a JSON value."""
    return digest(canonical(value))


def parse_digest(text: str) -> bytes:
    """The 32 bytes of ``sha256:<hex>``. Raises `UsageError` (malformed) for anything else."""
    if not isinstance(text, str) or not _FORM.fullmatch(text):
        raise refuse(MALFORMED, "not a digest", expected="sha256:<64 lower-case hex digits>", seen=str(text))
    return bytes.fromhex(text[7:])
