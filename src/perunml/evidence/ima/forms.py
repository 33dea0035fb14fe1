"""The other forms in which a kernel shows its IMA log, for whoever has nothing else: text, and lists with another hash than
SHA-1 in the template hash column (``binary_runtime_measurements_sha256``, Linux 6.10 and later).

Both give the same lines as the binary log. From text, template data are rebuilt: what the kernel writes there does not always
tell one field from the next, so a log of text is weaker evidence; its template hashes must fit what was rebuilt. Hosts send
the binary log alone.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence

from perunml.evidence.bundle import BANK_SIZES
from perunml.evidence.codes import IMA_TEMPLATE
from perunml.evidence.ima.parse import (
    HASH_SIZE,
    IMA,
    MAX_DATA,
    MAX_LINES,
    OLD_NAME,
    TEMPLATES,
    Line,
    bad,
    line_of,
    parse_log,
    read_line,
)
from perunml.evidence.ima.replay import VIOLATION
from perunml.wire.errors import refuse
from perunml.wire.rules import printable

BINARY, TEXT = "binary", "text"
MAX_TEXT_LINE = 4 * MAX_DATA
"""Bytes of a line of text: hex doubles what a binary line holds."""
_UNFIT = b"\xff" * HASH_SIZE
_SIZES = {size: bank for bank, size in BANK_SIZES.items()}
_NUMBERS = {b"iuid": 4, b"igid": 4, b"imode": 2}


def read_log(data: bytes) -> tuple[list[Line], str]:
    """The lines of a log in any form, and its form: ``binary`` or ``text``, and the hash of the column where it is not SHA-1.

    The template hashes of the lines are SHA-1 in any case: another column is compared here, and where it does not fit a line,
    the line is given a template hash that does not either. Raises `EvidenceRefusal`: non_canonical, and ima_template for text
    of a template whose fields are not known.
    """
    if data[:1].isdigit() or data[:1] == b" ":  # in binary a PCR's number, at most 23
        return _read_text(data)
    bank = next((bank for bank, size in BANK_SIZES.items() if _begins(data, size)), "sha1")
    if bank == "sha1":
        return parse_log(data)[0], BINARY
    lines: list[Line] = []
    at, size = 0, BANK_SIZES[bank]
    while at < len(data):
        told = data[at + 4 : at + 4 + size]
        # as if the column were SHA-1: the line itself has the same form
        short = data[at : at + 4] + bytes(HASH_SIZE) + data[at + 4 + size : at + 4 + size + 2 * MAX_DATA]
        line, following = read_line(short, 0, len(lines) + 1)
        lines.append((line[0], _column(told, line[2], bank), *line[2:]))
        at += following + size - HASH_SIZE
    return lines, f"{BINARY}, {bank}"


def _begins(data: bytes, size: int) -> bool:
    """Whether a first line with a template hash of `size` bytes names a known template."""
    length = int.from_bytes(data[4 + size : 8 + size], "little")
    name = data[8 + size : 8 + size + length] if length <= MAX_DATA else b""
    return name == IMA or name in TEMPLATES


def _column(told: bytes, data: bytes, bank: str) -> bytes:
    """The SHA-1 column for a line whose column of another hash is `told`."""
    if not any(told):
        return VIOLATION
    fits = told == hashlib.new(bank, data, usedforsecurity=False).digest()
    return hashlib.sha1(data, usedforsecurity=False).digest() if fits else _UNFIT


def _read_text(data: bytes) -> tuple[list[Line], str]:
    if not data.endswith(b"\n"):
        raise bad(data.count(b"\n") + 1, "it ends inside a line")
    lines: list[Line] = []
    form = TEXT
    for number, text in enumerate(data[:-1].split(b"\n"), 1):
        if number > MAX_LINES or len(text) > MAX_TEXT_LINE:
            raise bad(number, "it is too long")
        head = text.lstrip(b" ").split(b" ", 3)
        if len(head) != 4 or not head[0].isdigit() or len(head[0]) > 2:
            raise bad(number, "it has no PCR, template hash, template and fields")
        told = _hex(head[1], number)
        bank = _SIZES.get(len(told))
        if bank is None:
            raise bad(number, "its template hash is of no known size")
        if bank != "sha1":
            form = f"{TEXT}, {bank}"
        data_ = _old(head[3], number) if head[2] == IMA else _fields(head[2], head[3], number)
        lines.append(
            line_of(int(head[0]), _column(told, data_, bank) if bank != "sha1" else told, head[2], data_, number)
        )
    return lines, form


def _fields(template: bytes, text: bytes, number: int) -> bytes:
    ids = TEMPLATES.get(template)
    if ids is None:
        raise refuse(
            IMA_TEMPLATE,
            f"line {number} of the IMA log is text of a template whose fields are not known",
            expected=", ".join(name.decode() for name in TEMPLATES),
            seen=printable(template.decode("ascii", "backslashreplace"), 200),
        )
    digest, blank, rest = text.partition(b" ")
    values: Sequence[bytes] = [digest, *rest.rsplit(b" ", len(ids) - 2)]  # what is left over belongs to the path
    if not blank or len(values) != len(ids):
        raise bad(number, "a field is missing")
    fields = [_FORMS.get(field, _hex)(value, number) for field, value in zip(ids, values, strict=True)]
    return b"".join(struct.pack("<I", len(field)) + field for field in fields)


def _old(text: bytes, number: int) -> bytes:
    digest, _, path = text.partition(b" ")
    found = _hex(digest, number)
    if len(found) != HASH_SIZE:
        raise bad(number, "its digest has a wrong size")
    return found + path.ljust(OLD_NAME + 1, b"\0")


def _hex(text: bytes, number: int) -> bytes:
    try:
        found = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        found = b""
    if found.hex().encode() != text:
        raise bad(number, "a field is not lower-case hex")
    return found


def _digest(text: bytes, number: int) -> bytes:
    algorithm, colon, value = text.rpartition(b":")
    return algorithm + colon + b"\0" + _hex(value, number) if text else b""


def _string(text: bytes, _number: int) -> bytes:
    return text + b"\0"


def _number_of(size: int) -> Callable[[bytes, int], bytes]:
    def read(text: bytes, number: int) -> bytes:
        if not text.isdigit() or len(text) > 10 or int(text) >= 1 << 8 * size:
            raise bad(number, "a field is not a number")
        return int(text).to_bytes(size, "little")

    return read


_FORMS: dict[bytes, Callable[[bytes, int], bytes]] = {
    **dict.fromkeys((b"d-ng", b"d-ngv2", b"d-modsig"), _digest),
    **dict.fromkeys((b"n-ng", b"xattrnames"), _string),
    **{field: _number_of(size) for field, size in _NUMBERS.items()},
}
