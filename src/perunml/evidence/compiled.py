"""A baseline as its reader keeps it: the same meaning as the document, in a form that loads in a tenth of the time.

Form, version 1; numbers are little-endian, 32 bits:

    magic || digest of the document (32 bytes) || length || rest || for the state, then each window: count || lengths || rows

``rest`` is the document's JSON without files; ``rows`` are one after the other the ima-ng template data of every listed path and
digest, sorted, ``lengths`` their lengths. It is believed as it stands, so whoever keeps it must know it for their own, made of a document
that was judged: the manager seals it under its root key, bound to the document's digest. It never comes from anybody else.
"""

from __future__ import annotations

import sys
from array import array
from dataclasses import replace
from struct import Struct

from perunml.evidence.baseline import MAX_BASELINE, MAX_UNTIL, Baseline
from perunml.evidence.ima.plain import raw_digest
from perunml.evidence.rows import Rows, rows_of
from perunml.wire.canonical import canonical, load_canonical
from perunml.wire.codes import MALFORMED
from perunml.wire.errors import PerunError, refuse

MAGIC = b"perunml baseline\x001"
_DIGEST = 32
_U32 = Struct("<I")
_LENGTHS = "I"
"""The array's code for four bytes."""


def compile_baseline(baseline: Baseline) -> bytes:
    """The compiled form."""
    bare = replace(baseline, files={}, until=tuple(replace(window, files={}) for window in baseline.until))
    rest = canonical(bare.as_json())
    out = [MAGIC, bytes.fromhex(baseline.digest.removeprefix("sha256:")), _U32.pack(len(rest)), rest]
    for files in (baseline.files, *(window.files for window in baseline.until)):
        rows = rows_of({path.encode(): frozenset(map(raw_digest, digests)) for path, digests in files.items()})
        lengths = array(_LENGTHS, map(len, rows))
        if sys.byteorder == "big":
            lengths.byteswap()
        out += [_U32.pack(len(rows)), lengths.tobytes(), *rows]
    return b"".join(out)


def load_compiled(data: bytes, digest: str) -> Baseline:
    """The baseline of the document with this ``sha256:`` digest. Raises `UsageError` (malformed): another document's, or not of
    this form."""
    head = len(MAGIC) + _DIGEST
    if not data.startswith(MAGIC) or data[len(MAGIC) : head].hex() != digest.removeprefix("sha256:"):
        raise refuse(MALFORMED, "not this baseline's compiled form", expected=digest)
    try:
        rest, at = _sized(data, head)
        bare = Baseline.from_json(load_canonical(rest, limit=MAX_BASELINE))
        tables = []
        for _ in range(1 + len(bare.until)):
            rows, at = _rows(data, at)
            tables.append(Rows(rows))
    except (ValueError, IndexError) as exc:
        raise _bad(str(exc)) from None
    if at != len(data) or len(tables) > 1 + MAX_UNTIL:
        raise _bad("bytes after the last row")
    windows = tuple(replace(window, files=files) for window, files in zip(bare.until, tables[1:], strict=True))
    made = replace(bare, files=tables[0], until=windows)
    made.__dict__["digest"] = digest  # of the document that it was made of; computing it would make all files readable
    return made


def _rows(data: bytes, at: int) -> tuple[list[bytes], int]:
    count = _count(data, at)
    at += _U32.size
    end = at + count * _U32.size
    if end > len(data):
        raise ValueError("the lengths are cut")
    lengths = array(_LENGTHS)
    lengths.frombytes(data[at:end])
    if sys.byteorder == "big":
        lengths.byteswap()
    rows = []
    at = end
    for length in lengths:
        rows.append(data[at : at + length])
        at += length
    if at > len(data):
        raise ValueError("the rows are cut")
    return rows, at


def _sized(data: bytes, at: int) -> tuple[bytes, int]:
    size = _count(data, at)
    at += _U32.size
    if at + size > len(data):
        raise ValueError("the rest is cut")
    return data[at : at + size], at + size


def _count(data: bytes, at: int) -> int:
    if at + _U32.size > len(data):
        raise ValueError("a length is cut")
    return int(_U32.unpack_from(data, at)[0])


def _bad(why: str) -> PerunError:
    return refuse(MALFORMED, "a baseline's compiled form is damaged", seen=why)
