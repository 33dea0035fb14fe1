"""Parses the kernel's binary_runtime_measurements (Linux, security/integrity/ima/ima_fs.c and ima_template_lib.c).

Each line: PCR (u32), template hash (20 bytes, SHA-1 of the template data), length and name of the template, length and
template data; little-endian. Template data are fields, each with its length before it; only the oldest template, `ima`,
writes them bare. The log is the attacker's, so each length is looked at before it is used; nothing is allocated by one.
What is weak or unknown is read all the same, so that a replay can go on: to refuse it is the appraisal's part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from struct import Struct

from perunml.evidence.codes import NON_CANONICAL
from perunml.wire.errors import PerunError, refuse

MAX_LINES = 1_000_000
"""A server that ran for months has some 100,000."""
MAX_DATA = 64 * 1024
"""Bytes of one line's template data: a path of 4,096, a digest, a signature, a key's certificate."""
MAX_PATH = 4096
HASH_SIZE = 20
"""The template hash column is SHA-1 whatever the banks are."""
IMA = b"ima"
"""The oldest template: 20 bytes of SHA-1 (or MD5 and zeros) and a name of at most 255 bytes, hashed as 256."""
OLD_NAME = 255

TEMPLATES: Mapping[bytes, tuple[bytes, ...]] = {
    b"ima-ng": (b"d-ng", b"n-ng"),
    b"ima-ngv2": (b"d-ngv2", b"n-ng"),
    b"ima-sig": (b"d-ng", b"n-ng", b"sig"),
    b"ima-sigv2": (b"d-ngv2", b"n-ng", b"sig"),
    b"ima-buf": (b"d-ng", b"n-ng", b"buf"),
    b"ima-modsig": (b"d-ng", b"n-ng", b"sig", b"d-modsig", b"modsig"),
    b"evm-sig": (
        b"d-ng", b"n-ng", b"evmsig", b"xattrnames", b"xattrlengths", b"xattrvalues", b"iuid", b"igid", b"imode",
    ),
}  # fmt: skip
"""Templates that the kernel knows by name, and their fields (ima_template.c)."""
FIELD_IDS = frozenset(field for fields in TEMPLATES.values() for field in fields) | {b"d", b"n"}
MAX_FIELDS = 15
"""Fields of a format of the administrator's own, ``d-ng|n-ng|…`` (TEMPLATE_NUM_FIELDS_MAX)."""
_DIGESTS, _NAMES = (b"d-ng", b"d-ngv2", b"d"), (b"n-ng", b"n")
_LONGEST_NAME = 128
"""The longest format of known fields has 67 bytes (MAX_TEMPLATE_NAME_LEN)."""
_HEAD = Struct("<I20sI")
_U32 = Struct("<I")


Line = tuple[int, bytes, bytes, bytes, bytes, bytes]
"""One line: PCR, template hash, template data (what was hashed), digest as ``algorithm:\\0`` and raw bytes, path without
its NUL, template. Digest and path are empty where the template has none or is unknown. A plain tuple: there are 100,000 of
them, and a class of its own would double the time of reading a log."""


def parse_log(log: bytes, mark: int = 0) -> tuple[list[Line], int]:
    """All lines, and how many of them lie before byte `mark`.

    Raises `EvidenceRefusal` (non_canonical): a truncated or overlong field, trailing bytes, or a mark inside a line.
    """
    lines: list[Line] = []
    at, end, before = 0, len(log), -1
    while at < end:
        if at == mark:
            before = len(lines)
        line, at = read_line(log, at, len(lines) + 1)
        lines.append(line)
    if at == mark:
        before = len(lines)
    if before < 0:
        raise bad(len(lines), "what was accepted before ends inside it")
    return lines, before


def iterate(log: bytes) -> Iterator[Line]:
    """The lines one by one, without keeping them. Raises as `parse_log`."""
    at = number = 0
    while at < len(log):
        number += 1
        line, at = read_line(log, at, number)
        yield line


def read_line(log: bytes, at: int, number: int) -> tuple[Line, int]:
    """The line, `number` of its log, that begins at byte `at`, and where the next one does. Raises as `parse_log`."""
    end = len(log)
    if number > MAX_LINES:
        raise bad(number, f"there are more than {MAX_LINES} lines")
    if at + _HEAD.size > end:
        raise bad(number, "it ends inside a line")
    pcr, template_hash, size = _HEAD.unpack_from(log, at)
    at += _HEAD.size
    if size > _LONGEST_NAME or at + size + 4 > end:
        raise bad(number, "the template's name is too long")
    name = log[at : at + size]
    at += size
    if name == IMA:
        return _read_old(log, at, number, pcr, template_hash)
    (size,) = _U32.unpack_from(log, at)
    at += 4
    if size > MAX_DATA or at + size > end:
        raise bad(number, "the template data are too long")
    data = log[at : at + size]
    return line_of(pcr, template_hash, name, data, number), at + size


def line_of(pcr: int, template_hash: bytes, template: bytes, data: bytes, number: int) -> Line:
    """A line from its parts. Raises `EvidenceRefusal` (non_canonical) when the data are not of the template's form."""
    if template == IMA:
        digest, path = b"sha1:\0" + data[:HASH_SIZE], data[HASH_SIZE:].rstrip(b"\0")
        if len(data) != HASH_SIZE + OLD_NAME + 1 or 0 in path or len(path) > OLD_NAME:
            raise bad(number, "the path field is too long")
        return pcr, template_hash, data, digest, path, template
    ids = fields_of(template)
    digest, path = _digest_and_path(ids, split(data, len(ids), number), number) if ids else (b"", b"")
    return pcr, template_hash, data, digest, path, template


def fields_of(template: bytes) -> tuple[bytes, ...]:
    """The fields of a template by name, or of an administrator's format; none for one that is not known."""
    known = TEMPLATES.get(template)
    if known is None:
        written = tuple(template.split(b"|"))
        known = written if len(written) <= MAX_FIELDS and FIELD_IDS.issuperset(written) else ()
    return known


def field_of(line: Line, field: bytes) -> bytes:
    """What a line holds in a field, empty when it has none of that kind."""
    ids = fields_of(line[5])
    return split(line[2], len(ids), 0)[ids.index(field)] if field in ids else b""


def split(data: bytes, fields: int, number: int) -> list[bytes]:
    """Exactly so many fields, each with its length before it. Raises `EvidenceRefusal` (non_canonical)."""
    found, at, end = [], 0, len(data)
    for _ in range(fields):
        if at + 4 > end:
            raise bad(number, "a field is missing")
        (size,) = _U32.unpack_from(data, at)
        at += 4
        if at + size > end:
            raise bad(number, "a field is too long")
        found.append(data[at : at + size])
        at += size
    if at != end:
        raise bad(number, "its fields do not fill the template data")
    return found


def _digest_and_path(ids: Sequence[bytes], fields: Sequence[bytes], number: int) -> tuple[bytes, bytes]:
    digest = path = b""
    for field, content in zip(reversed(ids), reversed(fields), strict=True):  # so that the first of a kind stands
        if field in _DIGESTS:
            digest = b"sha1:\0" + content if field == b"d" else content
            if field == b"d-ngv2" and content.startswith(b"ima:"):  # it names the digest's type first
                digest = content[4:]
        elif field in _NAMES:
            path = content[:-1]
            if not content or len(content) > MAX_PATH + 1:
                raise bad(number, "the path field is too long or empty")
            if content[-1] or 0 in path:
                raise bad(number, "the path is not one NUL-terminated string")
    return digest, path


def _read_old(log: bytes, at: int, number: int, pcr: int, template_hash: bytes) -> tuple[Line, int]:
    digest = log[at : at + HASH_SIZE]
    at += HASH_SIZE
    if at + 4 > len(log):
        raise bad(number, "it ends inside a line")
    (size,) = _U32.unpack_from(log, at)
    at += 4
    path = log[at : at + size]
    if size > OLD_NAME or len(path) != size or 0 in path:
        raise bad(number, "the path field is too long")
    return line_of(pcr, template_hash, IMA, digest + path.ljust(OLD_NAME + 1, b"\0"), number), at + size


def bad(number: int, why: str) -> PerunError:
    """The refusal of a log that is not of its form."""
    return refuse(NON_CANONICAL, f"the IMA log is not of its form at line {number}: {why}")
