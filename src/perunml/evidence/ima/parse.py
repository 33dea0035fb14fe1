"""Parses the kernel's binary_runtime_measurements (Linux, security/integrity/ima/ima_fs.c and ima_template_lib.c).

Each line: PCR (u32), template hash (20 bytes, SHA-1 of the template data), length and name of the template, length and
template data; little-endian. Template data are fields, each with its length before it. The log is the attacker's, so
each length is looked at before it is used; nothing is allocated by one.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from perunml.evidence.codes import IMA_TEMPLATE, NON_CANONICAL, WEAK_DIGEST
from perunml.wire.errors import PerunError, refuse

MAX_LINES = 1_000_000
"""A server that ran for months has some 100,000."""
MAX_DATA = 64 * 1024
"""Bytes of one line's template data: a path of 4,096, a digest, a signature."""
MAX_PATH = 4096
HASH_SIZE = 20
"""The template hash column is SHA-1 whatever the banks are."""

_FIELDS = {b"ima-ng": 2, b"ima-ngv2": 2, b"ima-sig": 3, b"ima-sigv2": 3}
"""Templates that are read, and how many fields each has: digest, path, and for some a signature."""
_LONGEST_NAME = 32
_HEAD = Struct("<I20sI")
_U32 = Struct("<I")


class Line(NamedTuple):
    """One line. `digest` is ``algorithm:\\0`` and the raw digest, `path` without its NUL; `data` is what was hashed."""

    pcr: int
    template_hash: bytes
    data: bytes
    digest: bytes
    path: bytes


def parse_log(log: bytes, mark: int = 0) -> tuple[list[Line], int]:
    """All lines, and how many of them lie before byte `mark`.

    Raises `EvidenceRefusal`: non_canonical for a truncated or overlong field, trailing bytes, or a mark inside a line;
    ima_template and weak_digest for templates that are not read.
    """
    lines: list[Line] = []
    at, end, before = 0, len(log), -1
    head, u32, size_of_head = _HEAD.unpack_from, _U32.unpack_from, _HEAD.size
    append, make = lines.append, Line._make
    while at < end:
        if at == mark:
            before = len(lines)
        if at + size_of_head > end:
            raise _bad(len(lines), "it ends inside a line")
        pcr, template_hash, name_size = head(log, at)
        at += size_of_head
        if name_size > _LONGEST_NAME or at + name_size + 4 > end:
            raise _bad(len(lines), "the template's name is too long")
        fields = _FIELDS.get(log[at : at + name_size])
        if fields is None:
            raise _unread(len(lines), log[at : at + name_size])
        at += name_size
        (size,) = u32(log, at)
        at += 4
        if size > MAX_DATA or at + size > end:
            raise _bad(len(lines), "the template data are too long")
        data = log[at : at + size]
        at += size
        digest, path = _fields(data, fields, len(lines))
        append(make((pcr, template_hash, data, digest, path)))
        if len(lines) > MAX_LINES:
            raise _bad(len(lines), f"it has more than {MAX_LINES} lines")
    if at == mark:
        before = len(lines)
    if before < 0:
        raise _bad(len(lines), "what was accepted before ends inside a line")
    return lines, before


def _fields(data: bytes, count: int, line: int) -> tuple[bytes, bytes]:
    end = len(data)
    if end < 8:
        raise _bad(line, "a field is missing")
    (size,) = _U32.unpack_from(data)
    path_at = 4 + size
    if path_at + 4 > end:
        raise _bad(line, "the digest field is too long")
    digest = data[4:path_at]
    (size,) = _U32.unpack_from(data, path_at)
    at = path_at + 4 + size
    if size < 1 or at > end or size > MAX_PATH + 1:
        raise _bad(line, "the path field is too long or empty")
    path = data[path_at + 4 : at - 1]
    if data[at - 1] or 0 in path:
        raise _bad(line, "the path is not one NUL-terminated string")
    for _ in range(count - 2):
        if at + 4 > end:
            raise _bad(line, "a field is missing")
        at += 4 + _U32.unpack_from(data, at)[0]
    if at != end:
        raise _bad(line, "its fields do not fill the template data")
    if digest.startswith(b"ima:"):  # d-ngv2 names the digest's type first
        digest = digest[4:]
    return digest, path


def _bad(line: int, why: str) -> PerunError:
    return refuse(NON_CANONICAL, f"the IMA log is not of its form at line {line + 1}: {why}")


def _unread(line: int, name: bytes) -> PerunError:
    shown = name.decode("ascii", "backslashreplace")
    if name == b"ima":
        return refuse(
            WEAK_DIGEST, f"line {line + 1} of the IMA log is of the template `ima`, which is SHA-1", seen=shown
        )
    return refuse(IMA_TEMPLATE, f"line {line + 1} of the IMA log is of a template that is not read", seen=shown)
