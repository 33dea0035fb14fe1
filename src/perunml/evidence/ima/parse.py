"""Parses the kernel's binary_runtime_measurements (Linux, security/integrity/ima/ima_fs.c and ima_template_lib.c).

Each line: PCR (u32), template hash (20 bytes, SHA-1 of the template data), length and name of the template, length and
template data; little-endian. Template data are fields, each with its length before it. The log is the attacker's, so
each length is looked at before it is used; nothing is allocated by one.

Two steps: `split_log` cuts the log into lines, `read_fields` reads one line's template data. A verifier splits all lines and
reads only those that its baseline does not know byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from struct import Struct, error
from typing import Any

from perunml.evidence.codes import IMA_TEMPLATE, NON_CANONICAL, WEAK_DIGEST
from perunml.wire.errors import PerunError, refuse

PCR = 10
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


@dataclass(frozen=True, slots=True)
class Columns:
    """A log's lines, a list for each column, all of one length: a tuple for each line would double the time of reading.

    hashes     template hashes, 20 bytes
    templates  names of the templates
    data       template data: what was hashed
    others     line (from 0) -> PCR, of lines that name another one than 10
    before     how many lines lie before the mark
    """

    hashes: list[bytes] = field(default_factory=list)
    templates: list[bytes] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)
    others: dict[int, int] = field(default_factory=dict)
    before: int = 0

    def __len__(self) -> int:
        return len(self.data)


Line = tuple[int, bytes, bytes, bytes, bytes]
"""One line, fields and all: PCR, template hash, template data, digest as ``algorithm:\\0`` and raw bytes, path without its
NUL."""


def split_log(log: bytes, mark: int = 0, number: int = 0) -> Columns:
    """All lines of `log`, of which byte `mark` begins one or is the end; `number` lines were there before it.

    Raises `EvidenceRefusal`: non_canonical for a truncated or overlong column, or a mark inside a line; ima_template and
    weak_digest for templates that are not read.
    """
    hashes: list[bytes] = []
    templates: list[bytes] = []
    column: list[bytes] = []
    others: dict[int, int] = {}
    at, end, before, template = 0, len(log), -1, b"ima-ng"
    unpack, size = _head(len(template))
    while at < end:
        if at == mark:
            before = len(column)
        try:
            pcr, template_hash, length, name, room = unpack(log, at)
        except error:
            length = -1
        if length != len(template):  # the last line's name was of another length than this one's
            template = _name(log, at, number + len(column))
            unpack, size = _head(len(template))
            pcr, template_hash, length, name, room = unpack(log, at)
        if name != template or not column:
            _count(name, number + len(column))
            template = name
        start = at + size
        at = start + room
        if room > MAX_DATA or at > end:
            raise _bad(number + len(column), "the template data are too long")
        if pcr != PCR:
            others[len(column)] = pcr
        hashes.append(template_hash)
        templates.append(template)
        column.append(log[start:at])
    if at == mark:
        before = len(column)
    if before < 0:
        raise _bad(number + len(column), "what was accepted before ends inside a line")
    if number + len(column) > MAX_LINES:
        raise _bad(number + len(column), f"it has more than {MAX_LINES} lines")
    return Columns(hashes, templates, column, others, before)


def read_fields(template: bytes, data: bytes, number: int) -> tuple[bytes, bytes]:
    """Digest (``algorithm:\\0`` and raw bytes) and path of line `number` (from 0). Raises `EvidenceRefusal`
    (non_canonical)."""
    u32, size = _U32.unpack_from, len(data)
    if size < 8:
        raise _bad(number, "a field is missing")
    path_at = 8 + u32(data)[0]
    if path_at > size:
        raise _bad(number, "the digest field is too long")
    digest = data[4 : path_at - 4]
    (length,) = u32(data, path_at - 4)
    last = path_at + length
    if length < 1 or last > size or length > MAX_PATH + 1:
        raise _bad(number, "the path field is too long or empty")
    path = data[path_at : last - 1]
    if data[last - 1] or 0 in path:
        raise _bad(number, "the path is not one NUL-terminated string")
    for _ in range(_count(template, number) - 2):
        if last + 4 > size:
            raise _bad(number, "a field is missing")
        last += 4 + u32(data, last)[0]
    if last != size:
        raise _bad(number, "its fields do not fill the template data")
    return digest.removeprefix(b"ima:"), path  # d-ngv2 names the digest's type first


def template_data(digest: bytes, path: bytes) -> bytes:
    """An ima-ng line's template data: what `read_fields` gives `digest` and `path` for."""
    return b"%b%b%b%b\0" % (_U32.pack(len(digest)), digest, _U32.pack(len(path) + 1), path)


def parse_log(log: bytes, mark: int = 0) -> tuple[list[Line], int]:
    """All lines with their fields, and how many of them lie before byte `mark`. Raises as `split_log` and
    `read_fields` do."""
    columns = split_log(log, mark)
    return read_lines(columns), columns.before


def read_lines(columns: Columns) -> list[Line]:
    """Each line with its fields. Raises as `read_fields` does."""
    return [
        (columns.others.get(number, PCR), found, data, *read_fields(template, data, number))
        for number, (found, template, data) in enumerate(
            zip(columns.hashes, columns.templates, columns.data, strict=True)
        )
    ]


@lru_cache(maxsize=_LONGEST_NAME + 1)
def _head(length: int) -> tuple[Callable[[bytes, int], tuple[Any, ...]], int]:
    """Reads all before the template data of a line whose template's name has `length` bytes: one call a line."""
    form = Struct(f"<I20sI{length}sI")
    return form.unpack_from, form.size


def _name(log: bytes, at: int, number: int) -> bytes:
    if at + _HEAD.size > len(log):
        raise _bad(number, "it ends inside a line")
    _, _, size = _HEAD.unpack_from(log, at)
    at += _HEAD.size
    if size > _LONGEST_NAME or at + size + 4 > len(log):
        raise _bad(number, "the template's name is too long")
    return log[at : at + size]


def _count(template: bytes, number: int) -> int:
    """How many fields its lines have. Raises `EvidenceRefusal`: ima_template, weak_digest."""
    if (count := _FIELDS.get(template)) is not None:
        return count
    shown, line = template.decode("ascii", "backslashreplace"), number + 1
    if template == b"ima":
        raise refuse(WEAK_DIGEST, f"line {line} of the IMA log is of the template `ima`, which is SHA-1", seen=shown)
    raise refuse(IMA_TEMPLATE, f"line {line} of the IMA log is of a template that is not read", seen=shown)


def _bad(number: int, why: str) -> PerunError:
    return refuse(NON_CANONICAL, f"the IMA log is not of its form at line {number + 1}: {why}")
