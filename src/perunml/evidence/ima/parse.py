"""Parses the kernel's binary_runtime_measurements (Linux, security/integrity/ima/ima_fs.c and ima_template_lib.c).

Each line: PCR (u32), template hash (20 bytes, SHA-1 of the template data), length and name of the template, length and
template data; little-endian. Template data are fields, each with its length before it. The log is the attacker's, so
each length is looked at before it is used; nothing is allocated by one.
"""

from __future__ import annotations

from struct import Struct

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


Line = tuple[int, bytes, bytes, bytes, bytes]
"""One line: PCR, template hash, template data (what was hashed), digest as ``algorithm:\\0`` and raw bytes, path without
its NUL. A plain tuple: there are 100,000 of them, and a class of its own would double the time of reading a log."""


def parse_log(log: bytes, mark: int = 0) -> tuple[list[Line], int]:
    """All lines, and how many of them lie before byte `mark`.

    Raises `EvidenceRefusal`: non_canonical for a truncated or overlong field, trailing bytes, or a mark inside a line;
    ima_template and weak_digest for templates that are not read.
    """
    lines: list[Line] = []
    append, head, u32, fields_of = lines.append, _HEAD.unpack_from, _U32.unpack_from, _FIELDS.get
    at, end, before = 0, len(log), -1
    while at < end:
        if at == mark:
            before = len(lines)
        if at + _HEAD.size > end:
            raise _bad(lines, "it ends inside a line")
        pcr, template_hash, size = head(log, at)
        at += _HEAD.size
        if size > _LONGEST_NAME or at + size + 4 > end:
            raise _bad(lines, "the template's name is too long")
        name = log[at : at + size]
        fields = fields_of(name)
        if fields is None:
            raise _unread(lines, name)
        at += size
        (size,) = u32(log, at)
        at += 4
        if size > MAX_DATA or at + size > end:
            raise _bad(lines, "the template data are too long")
        data = log[at : at + size]
        at += size
        # the fields, in line: a call for each would cost as much again
        if size < 8:
            raise _bad(lines, "a field is missing")
        path_at = 8 + u32(data)[0]
        if path_at > size:
            raise _bad(lines, "the digest field is too long")
        digest = data[4 : path_at - 4]
        (length,) = u32(data, path_at - 4)
        last = path_at + length
        if length < 1 or last > size or length > MAX_PATH + 1:
            raise _bad(lines, "the path field is too long or empty")
        path = data[path_at : last - 1]
        if data[last - 1] or 0 in path:
            raise _bad(lines, "the path is not one NUL-terminated string")
        while fields > 2:
            if last + 4 > size:
                raise _bad(lines, "a field is missing")
            last += 4 + u32(data, last)[0]
            fields -= 1
        if last != size:
            raise _bad(lines, "its fields do not fill the template data")
        if digest[:4] == b"ima:":  # d-ngv2 names the digest's type first
            digest = digest[4:]
        append((pcr, template_hash, data, digest, path))
        if len(lines) > MAX_LINES:
            raise _bad(lines, f"it has more than {MAX_LINES} lines")
    if at == mark:
        before = len(lines)
    if before < 0:
        raise _bad(lines, "what was accepted before ends inside a line")
    return lines, before


def _bad(lines: list[Line], why: str) -> PerunError:
    return refuse(NON_CANONICAL, f"the IMA log is not of its form at line {len(lines) + 1}: {why}")


def _unread(lines: list[Line], name: bytes) -> PerunError:
    shown, line = name.decode("ascii", "backslashreplace"), len(lines) + 1
    if name == b"ima":
        return refuse(WEAK_DIGEST, f"line {line} of the IMA log is of the template `ima`, which is SHA-1", seen=shown)
    return refuse(IMA_TEMPLATE, f"line {line} of the IMA log is of a template that is not read", seen=shown)
