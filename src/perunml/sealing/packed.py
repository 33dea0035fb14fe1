"""Several files as one run of bytes of an agreed length: what a checkpoint is sealed as, so that its size tells nothing.

`HEADER` bytes hold the length of a canonical JSON list in eight bytes, the list of [path, size, mtime in nanoseconds as a decimal
string], and zeros; the files' bytes follow in that order, and zeros up to the end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from perunml.sealing.codes import CHECKPOINT_TOO_LARGE, MANIFEST_INVALID
from perunml.sealing.index import check_path, check_tree
from perunml.wire.canonical import canonical, load_json
from perunml.wire.errors import PerunError, refuse

HEADER = 256 * 1024
"""Bytes for the list: 1,000 files with names of 200 bytes."""
MAX_FILES = 1000
_PART = 1 << 20
_LENGTH = 8
_MAX_TIME = 2**63


@dataclass(frozen=True, slots=True)
class PackedFile:
    """One file: `time` is its modification, in nanoseconds since 1970; `start` its place in the packed bytes."""

    size: int
    time: int
    start: int


def packed_size(most: int) -> int:
    """Bytes of any packed files of at most `most` bytes together."""
    return HEADER + most


def pack(files: Mapping[str, int], out: int, most: int) -> None:
    """Write the files, given as open descriptors by their paths, into the file `out` (a descriptor; its end is cut or filled up).
    Raises `LimitReached` (checkpoint_too_large), `UsageError` (path_refused)."""
    check_tree(files)
    found = {check_path(path): os.fstat(descriptor) for path, descriptor in files.items()}
    total = sum(info.st_size for info in found.values())
    rows = [[path, info.st_size, str(max(0, info.st_mtime_ns))] for path, info in found.items()]
    head = canonical(rows)
    if total > most or len(rows) > MAX_FILES or len(head) > HEADER - _LENGTH:
        raise refuse(
            CHECKPOINT_TOO_LARGE, "the checkpoint's files are too large or too many",
            expected=f"at most {most} bytes in {MAX_FILES} files", seen=f"{total} bytes in {len(rows)} files",
        )  # fmt: skip
    os.ftruncate(out, 0)  # what lay there of the one before is zeros again
    os.ftruncate(out, packed_size(most))
    os.pwrite(out, len(head).to_bytes(_LENGTH) + head, 0)
    at = HEADER
    for path, descriptor in files.items():
        end, offset = at + found[path].st_size, 0
        while at < end:
            part = os.pread(descriptor, min(_PART, end - at), offset)
            if not part:
                raise refuse(CHECKPOINT_TOO_LARGE, "a file became shorter while it was read")
            at += os.pwrite(out, part, at)
            offset += len(part)


def listed(head: bytes, total: int) -> dict[str, PackedFile]:
    """The files, from the first `HEADER` bytes of `total`. Raises `IntegrityError` (manifest_invalid): not of this form."""
    length = int.from_bytes(head[:_LENGTH])
    if len(head) != HEADER or length > HEADER - _LENGTH:
        raise refuse(MANIFEST_INVALID, "packed files have no list")
    found: dict[str, PackedFile] = {}
    at = HEADER
    try:
        rows = load_json(head[_LENGTH : _LENGTH + length], limit=HEADER)
        if not isinstance(rows, list) or len(rows) > MAX_FILES:
            raise TypeError
        for path, size, time in rows:
            if type(size) is not int or size < 0 or not isinstance(path, str) or path in found:
                raise TypeError
            found[check_path(path)] = PackedFile(size, _time(time), at)
            at += size
        check_tree(found)
    except (TypeError, ValueError, PerunError):
        raise refuse(MANIFEST_INVALID, "the list of packed files is not of its form") from None
    if at > total:
        raise refuse(MANIFEST_INVALID, "packed files run over their end", expected=str(total), seen=str(at))
    return found


def unpack(read: Callable[[int, memoryview], None], total: int, folder: Path, owner: int) -> None:
    """Lay packed files of `total` bytes below `folder`, for the user `owner`; `read` fills a buffer from an offset. Raises
    `IntegrityError` (manifest_invalid) before anything is written."""
    head = bytearray(HEADER)
    read(0, memoryview(head))
    found = listed(bytes(head), total)
    buffer = memoryview(bytearray(_PART))
    for path, file in found.items():
        target = folder / path
        _folders(folder, target.parent, owner)
        with target.open("xb") as out:
            for offset in range(0, file.size, _PART):
                part = buffer[: min(_PART, file.size - offset)]
                read(file.start + offset, part)
                out.write(part)
            os.fchown(out.fileno(), owner, owner)
        os.utime(target, ns=(file.time, file.time))
    buffer[:] = bytes(_PART)


def _folders(top: Path, wanted: Path, owner: int) -> None:
    if wanted != top and not wanted.exists():
        _folders(top, wanted.parent, owner)
        wanted.mkdir(mode=0o700)
        os.chown(wanted, owner, owner)


def _time(text: object) -> int:
    if not isinstance(text, str) or not text.isascii() or not text.isdigit() or int(text[:20]) >= _MAX_TIME:
        raise TypeError
    return int(text)
