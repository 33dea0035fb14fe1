"""Where a tar's members begin (POSIX.1-2017 pax, "pax Interchange Format": ustar headers; GNU's long names), a header at a time.

A tar may come from anybody: Python's reader goes in circles, recurses or reads a name of gigabytes where one says so. Here each step goes forward, and no name is read that is longer than names are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

BLOCK = 512
MAX_EXTRA = 1 << 16
"""Bytes of a long name, or of a pax header's records, that are looked at: Linux's PATH_MAX many times over."""
_CHECKSUM = slice(148, 156)
_EMPTY = frozenset(b"123456")
"""Links, devices, folders, pipes: nothing of theirs is stored, whatever size they say."""


def members(path: Path) -> Iterator[tuple[int, bytes]]:
    """Where each member begins, with what tells its long name, and its name. Ends at the end of the archive or of the file. Raises `ValueError`: not a tar that is known here; `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        end = os.fstat(descriptor).st_size
        begin = at = 0
        name: bytes | None = None
        size: int | None = None
        while at + BLOCK <= end:
            header = os.pread(descriptor, BLOCK, at)
            if not any(header):
                return
            stored, kind = _checked(header), header[156]
            if kind in b"xL":
                if stored > MAX_EXTRA:
                    raise ValueError("too long a name")
                extra = os.pread(descriptor, stored, at + BLOCK)
                name, size = (extra.rstrip(b"\0"), size) if kind == ord("L") else _pax(extra, name, size)
            elif kind == ord("S"):  # more headers follow it
                raise ValueError("GNU's sparse files")
            elif kind not in b"gK":
                yield begin, _name(header) if name is None else name
                stored = 0 if kind in _EMPTY else stored if size is None else size
                name = size = None
            at += BLOCK + -(-stored // BLOCK) * BLOCK
            if kind not in b"xLgK":
                begin = at
    finally:
        os.close(descriptor)


def _checked(header: bytes) -> int:
    """What it says is stored after it, in bytes. Raises `ValueError`: no header, by its sum."""
    said = int(header[_CHECKSUM].strip(b" \0") or b"0", 8)
    if len(header) != BLOCK or said != sum(header) - sum(header[_CHECKSUM]) + 8 * ord(" "):
        raise ValueError("not a tar's header")
    field = header[124:136]
    size = int.from_bytes(field[1:]) if field[0] == 0x80 else int(field.strip(b" \0") or b"0", 8)
    if size < 0:
        raise ValueError("a negative size")
    return size


def _name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _pax(data: bytes, name: bytes | None, size: int | None) -> tuple[bytes | None, int | None]:
    """A pax header's records, `length key=value` and a line feed: the name and size that it gives the next member, or those from before it. Raises `ValueError`."""
    at = 0
    while at < len(data):
        space = data.index(b" ", at, at + 8)
        after = at + int(data[at:space])
        if not space < after <= len(data):
            raise ValueError("a record that is longer than all of them")
        key, _, value = data[space + 1 : after - 1].partition(b"=")
        if key == b"path":
            name = value
        elif key == b"size" and (size := int(value)) < 0:
            raise ValueError("a negative size")
        at = after
    return name, size
