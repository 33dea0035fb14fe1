"""Records of one length in a file: raw ones, or the rows of a ``.npy`` array."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from perunml.sealing.codes import FILE_MISSING, NO_RECORDS
from perunml.sealing.npy import MAX_HEADER, read_header
from perunml.sealing.views.source import Source
from perunml.wire.errors import refuse


@dataclass(frozen=True, slots=True)
class Records:
    """`count` records in the file `path`: each of `shape` and `dtype`, `size` bytes, from byte `start` on."""

    path: str
    start: int
    count: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        return int(self.dtype.itemsize * math.prod(self.shape))

    def read(self, source: Source, first: int, out: np.ndarray[Any, Any]) -> None:
        """Fill `out`, (n, *shape) and contiguous, with n records from number `first` on. Raises `IntegrityError`; `UsageError` (no_records): the
        file is shorter than it was."""
        view = memoryview(out.reshape(-1).view(np.uint8).data)
        if source.read_into(self.path, self.start + first * self.size, view) != len(view):
            raise refuse(NO_RECORDS, f"{self.path} ends before its last record", expected=f"{self.count} records")


def npy_records(source: Source, path: str) -> Records:
    """The rows of a ``.npy`` file. Raises `UsageError` (no_records): none, or of Python objects; `file_missing`."""
    head = bytearray(min(_size(source, path), MAX_HEADER))
    source.read_into(path, 0, head)
    try:
        shape, dtype, start = read_header(io.BytesIO(head))
        if not shape:
            raise ValueError("a single number")
    except ValueError as exc:
        raise refuse(
            NO_RECORDS,
            f"{path} has no rows to be read one by one",
            expected="rows of numbers, as numpy.save writes them",
            seen=str(exc),
        ) from None
    made = Records(path, start, int(shape[0]), tuple(int(n) for n in shape[1:]), dtype)
    return _checked(source, made)


def raw_records(source: Source, path: str, size: int, *, header: int = 0) -> Records:
    """Records of `size` bytes each, after `header` bytes. Raises `UsageError` (no_records): the rest is no whole number of them."""
    if size < 1 or header < 0:
        raise ValueError("a record has a byte at least, a header none at least")
    left = _size(source, path) - header
    if left < 0 or left % size:
        raise refuse(
            NO_RECORDS, f"{path} is no whole number of records", expected=f"{size} bytes each", seen=f"{left} bytes"
        )
    return _checked(source, Records(path, header, left // size, (size,), np.dtype(np.uint8)))


def _checked(source: Source, records: Records) -> Records:
    if records.start + records.count * records.size > _size(source, records.path) or not records.size:
        raise refuse(
            NO_RECORDS,
            f"{records.path} is shorter than it says",
            expected=f"{records.count} records of {records.size} bytes",
        )
    return records


def _size(source: Source, path: str) -> int:
    try:
        return source.files[path]
    except KeyError:
        few = ", ".join(list(source.files)[:5])
        raise refuse(FILE_MISSING, "no such file in the asset", expected=few, seen=path) from None
