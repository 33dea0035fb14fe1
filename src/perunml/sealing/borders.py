"""Where a file's records begin, so that its chunks can begin there too: a record is then never opened by way of two chunks.

Fixed-size records and the rows of a ``.npy`` array by arithmetic, the latter where NumPy is installed; WebDataset's samples by a tar's headers; Parquet's column chunks and row groups by its
footer, where pyarrow is installed. A file that is none of these, or not what its name says, has chunks of one size.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from perunml.sealing.chunks import MAX_RUNS, MIN_CHUNK, Table
from perunml.sealing.npy import read_header
from perunml.sealing.tars import members

LEAST = 8
"""Chunks from which a file is worth a blob of its own with a table."""
_TAR = (".tar",)
_PARQUET = (".parquet",)


@dataclass(frozen=True, slots=True)
class Records:
    """All files that are not of a known format hold records of `size` bytes after `header` bytes (``perunml seal --record-size``)."""

    size: int
    header: int = 0

    def __post_init__(self) -> None:
        if self.size < 1 or self.header < 0:
            raise ValueError("a record has a byte at least, a header none at least")


def find_table(path: Path, chunk_size: int, records: Records | None = None) -> Table:
    """The chunks of a file, each beginning where a record does as far as the bounds let it; () for chunks of one size. Raises `OSError`."""
    size = path.stat().st_size
    if size < LEAST * chunk_size or chunk_size < 2 * MIN_CHUNK:  # cutting could leave less than a chunk must have
        return ()
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                shape, dtype, start = read_header(file)
            row = dtype.itemsize
            for length in shape[1:]:
                row *= length
            return fixed(size, start, row, chunk_size) if shape else ()
        if path.suffix in _TAR:
            return _unless_usual(cut(_samples(path), size, chunk_size), chunk_size)
        if path.suffix in _PARQUET:
            return _unless_usual(cut(_row_groups(path), size, chunk_size), chunk_size)
    except (ValueError, ImportError):  # not what its name says; or there is no NumPy
        return ()
    return fixed(size, records.header, records.size, chunk_size) if records else ()


def fixed(size: int, header: int, record: int, chunk_size: int) -> Table:
    """Chunks of whole records of `record` bytes, as many in each as fit in all of them, the first with the `header` before its own; the last has what is left."""
    many = (chunk_size - header) // record if record > 0 else 0
    whole = many * record
    if whole < MIN_CHUNK or size <= header + whole:
        return ()
    count, rest = divmod(size - header - whole, whole)
    return _runs([(header + whole, 1), *([(whole, count)] if count else []), *([(rest, 1)] if rest else [])])


def cut(borders: Iterable[int], size: int, chunk_size: int) -> Table:
    """Chunks that end at the last of the rising `borders` (bytes) that they reach, each of `MIN_CHUNK` to `chunk_size` bytes but for the last. Where the next border is farther, they are
    cut as late as leaves enough for the one before it. Raises `ValueError`: more runs than a table may have."""
    sizes: list[tuple[int, int]] = []

    def add(length: int) -> None:
        if sizes and sizes[-1][0] == length:
            sizes[-1] = (length, sizes[-1][1] + 1)
        else:
            sizes.append((length, 1))
            if len(sizes) > MAX_RUNS:
                raise ValueError("too many runs")

    start = reached = 0  # of the chunk that is being made: its begin, and the last border that it may end at
    for border in chain(borders, (size,)):
        if not start < border <= size or border <= reached:
            continue
        if border - start > chunk_size:
            if reached - start >= MIN_CHUNK:
                add(reached - start)
                start = reached
            while (left := border - start) > chunk_size:
                step = min(chunk_size, left - MIN_CHUNK) if border < size else chunk_size
                add(step)
                start += step
        reached = border
    if size > start:
        add(size - start)
    return tuple(sizes)


def _unless_usual(table: Table, chunk_size: int) -> Table:
    """() for chunks of one size: no border was found that could be kept to."""
    return () if len(table) <= 2 and table[0][0] == chunk_size and table[-1][1] == 1 else table


def _runs(found: list[tuple[int, int]]) -> Table:
    made: list[tuple[int, int]] = []
    for length, count in found:
        if made and made[-1][0] == length:
            made[-1] = (length, made[-1][1] + count)
        else:
            made.append((length, count))
    return tuple(made)


def _samples(path: Path) -> Iterator[int]:
    """Where a WebDataset's samples begin: at the header of the first of the files that share a name up to its first dot."""
    before = None
    for offset, path_inside in members(path):
        folder, _, name = path_inside.rpartition(b"/")
        key = folder, name.partition(b".")[0]
        if key != before:
            yield offset
        before = key


def _row_groups(path: Path) -> list[int]:
    """Where a Parquet file's column chunks begin, its row groups' first ones among them; none where pyarrow is not installed or the file is no Parquet file."""
    try:
        import pyarrow.lib
        import pyarrow.parquet
    except ImportError:
        return []
    try:
        with pyarrow.parquet.ParquetFile(os.fspath(path)) as file:
            metadata = file.metadata
            found = set()
            for group in range(metadata.num_row_groups):
                row_group = metadata.row_group(group)
                for number in range(row_group.num_columns):
                    column = row_group.column(number)
                    found.add(column.dictionary_page_offset or column.data_page_offset)
    except (pyarrow.lib.ArrowException, OSError, ValueError):  # OSError where its footer is encrypted, or none
        return []
    return sorted(found)
