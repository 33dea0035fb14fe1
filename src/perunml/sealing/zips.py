"""Has a zip exactly one directory, where every reader looks for it?

Readers find the directory in different ways: some trust the offset in the end record, some count back from the end, some
follow the Zip64 locator. One archive can so show harmless members to who checks it and others to who loads it.
"""

from __future__ import annotations

from struct import Struct

END = 22
"""Bytes of the end record without a comment (APPNOTE 4.3.16)."""
_END = Struct("<4s4H2IH")
_LOCATOR = Struct("<4sIQI")
_END64 = Struct("<4sQ2H2I4Q")
TAIL = _END.size + _LOCATOR.size + _END64.size
"""How much of the archive's end `directory_fault` wants to see."""
_MAX16, _MAX32 = 2**16 - 1, 2**32 - 1


def directory_fault(tail: bytes, size: int) -> str:
    """What is wrong with the end of a zip of `size` bytes that ends in `tail` (its last `TAIL` bytes, or all of it); empty
    when the directory lies right before its end records and all of them say so, with no comment."""
    if len(tail) < END:
        return "no zip"
    magic, disk, first, here, count, length, offset, comment = _END.unpack_from(tail, len(tail) - _END.size)
    if magic != b"PK\x05\x06" or comment:
        return "no zip, or one with a comment or bytes after it"
    stop = size - _END.size
    before = tail[: len(tail) - _END.size]
    if before[-_LOCATOR.size :].startswith(b"PK\x06\x07"):
        if len(tail) != TAIL:
            return "a Zip64 locator without its record"
        stop -= _LOCATOR.size + _END64.size
        _, at_disk, at, disks = _LOCATOR.unpack_from(tail, _END64.size)
        magic, rest, _, _, disk64, first64, here64, count64, length64, offset64 = _END64.unpack_from(tail)
        if magic != b"PK\x06\x06" or at != stop or at_disk or disks > 1 or rest != _END64.size - 12:
            return "its Zip64 record is not where its locator says"
        told = (disk, first, here, count, length, offset)
        if told != (disk64, first64, min(here64, _MAX16), min(count64, _MAX16), min(length64, _MAX32),
                    min(offset64, _MAX32)):  # fmt: skip
            return "its end records contradict each other"
        here, count, length, offset = here64, count64, length64, offset64
    if disk or first or here != count or offset + length != stop:
        return "its directory does not lie right before its end"
    return ""
