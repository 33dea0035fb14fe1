"""UEFI variables as a boot log measures them: UEFI_VARIABLE_DATA (PC Client Platform Firmware Profile 1.06, 10.4.2.6), and
signature lists inside (UEFI 2.10, 32.4.1). Bytes in, values or None out: what is not of the form is not read."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from struct import Struct

MAX_NAME = 128
"""Characters of a variable's name; the longest that matters has 14."""
MAX_ENTRIES = 8192
"""Entries of one signature list; a dbx has some hundreds."""
GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
IMAGE_SECURITY = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
SHIM_LOCK = uuid.UUID("605dab50-e046-4300-abb6-3dd810dd8b23")
_X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
_SHA256 = uuid.UUID("c1c41626-504c-4092-aca9-41f936934328")
_HEAD = Struct("<16sQQ")
_LIST = Struct("<16sIII")
_OWNER = 16
"""Bytes of the owner's GUID before each entry's data."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable's name, its vendor and what it held when it was measured."""

    vendor: uuid.UUID
    name: str
    data: bytes


def read_variable(data: bytes) -> Variable | None:
    """The variable that fills `data` exactly, or None."""
    if len(data) < _HEAD.size:
        return None
    vendor, characters, size = _HEAD.unpack_from(data)
    if characters > MAX_NAME or _HEAD.size + 2 * characters + size != len(data):
        return None
    try:
        name = data[_HEAD.size : _HEAD.size + 2 * characters].decode("utf-16-le")
    except UnicodeDecodeError:
        return None
    return Variable(uuid.UUID(bytes_le=vendor), name, data[_HEAD.size + 2 * characters :])


def signatures(data: bytes) -> tuple[str, ...] | None:
    """``sha256:`` digests of a variable of signature lists: a certificate's (DER), a listed image hash as it stands, of whatever else
    the digest of its data. None when it is not such a variable."""
    found: list[str] = []
    at = 0
    while at < len(data):
        if at + _LIST.size > len(data):
            return None
        kind, size, header, each = _LIST.unpack_from(data, at)
        body = size - _LIST.size - header
        if each <= _OWNER or body < 0 or body % each or at + size > len(data) or size < _LIST.size:
            return None
        if len(found) + body // each > MAX_ENTRIES:
            return None
        first = at + _LIST.size + header
        for entry in range(first, first + body, each):
            found.append(_digest(uuid.UUID(bytes_le=kind), data[entry + _OWNER : entry + each]))
        at += size
    return tuple(found)


def authority(variable: Variable) -> str:
    """``sha256:`` of what vouched for an image: the entry of a signature list (certificate or hash) that the variable's data are, with
    or without its owner before it, else of the data."""
    for data in (variable.data[_OWNER:], variable.data):
        if _is_der(data):
            return "sha256:" + hashlib.sha256(data).hexdigest()
    if len(variable.data) == _OWNER + 32:
        return "sha256:" + variable.data[_OWNER:].hex()
    return "sha256:" + hashlib.sha256(variable.data).hexdigest()


def _digest(kind: uuid.UUID, data: bytes) -> str:
    if kind == _SHA256 and len(data) == 32:
        return "sha256:" + data.hex()
    # an X.509 list's entries may be padded to the longest; the certificate says how long it is
    if kind == _X509 and data[:2] == b"\x30\x82" and len(data) >= 4:
        data = data[: 4 + int.from_bytes(data[2:4])]
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _is_der(data: bytes) -> bool:
    return data[:2] == b"\x30\x82" and len(data) >= 4 and len(data) == 4 + int.from_bytes(data[2:4])
