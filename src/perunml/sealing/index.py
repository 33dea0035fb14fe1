"""The sealed index: which files an asset has and where each lies. Names and sizes are secrets too, so it is a blob."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perunml.sealing.chunks import MAX_RUNS, Table, within_bounds
from perunml.sealing.codes import MANIFEST_INVALID, PATH_REFUSED
from perunml.sealing.manifest import BlobEntry
from perunml.wire.canonical import canonical, load_json
from perunml.wire.errors import PerunError, refuse
from perunml.wire.rules import Rule

MAX_INDEX = 64 * 2**20
"""Largest index, in bytes: some 600,000 files."""
MAX_PATH = 1024
MAX_PARTS = 64
"""Folders within folders; with no bound, one long name costs the square of its length to check."""
MAX_PART = 255
"""Linux's NAME_MAX, in bytes."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Place:
    """A file: `size` bytes in blob number `blob` from byte `offset` of its plaintext."""

    size: int
    blob: int
    offset: int


def check_path(path: str) -> str:
    """`path` again. Raises `UsageError` (path_refused) unless it is relative, in plain parts, portable, and cannot leave
    the folder that it is unpacked into."""
    parts = path.split("/")
    if len(parts) > MAX_PARTS:
        raise refuse(PATH_REFUSED, f"a file lies deeper than {MAX_PARTS} folders", seen=path)
    if _CONTROL.search(path) or "\\" in path or any(part in ("", ".", "..") for part in parts):
        raise refuse(PATH_REFUSED, "a file's name could lead astray", seen=path)
    try:
        size, longest = len(path.encode()), max(len(part.encode()) for part in parts)
    except UnicodeEncodeError:
        raise refuse(PATH_REFUSED, "a file's name is not UTF-8", seen=ascii(path)) from None
    if size > MAX_PATH or longest > MAX_PART:
        raise refuse(
            PATH_REFUSED, f"a file's name is longer than {MAX_PATH} bytes, or a part than {MAX_PART}", seen=path
        )
    return path


@dataclass(frozen=True, slots=True)
class Index:
    """Where each file lies, and by number the `tables` of the blobs whose chunks follow records' borders."""

    files: dict[str, Place]
    tables: dict[int, Table]


def encode_index(files: Mapping[str, Place], tables: Mapping[int, Table] | None = None) -> bytes:
    """The index's bytes, files in the order in which they lie. Raises `UsageError` (path_refused): too many files."""
    rows = [[path, place.size, place.blob, place.offset] for path, place in files.items()]
    more = {"chunks": {str(blob): table for blob, table in tables.items()}} if tables else {}
    if len(data := canonical({"files": rows, **more})) > MAX_INDEX:
        raise refuse(PATH_REFUSED, f"too many files: their list is longer than {MAX_INDEX} bytes")
    return data


def decode_index(data: bytes, blobs: Sequence[BlobEntry], chunk_size: int) -> Index:
    """The index of an asset with these blobs. Raises `IntegrityError` (manifest_invalid): not of its form, a name twice, or one that is a folder of another, or
    files that do not cover the blobs one after the other, without gap or overlap (else a small asset could unpack to any
    size)."""
    try:
        value = load_json(data, limit=MAX_INDEX)
        if set(value) not in ({"files"}, {"files", "chunks"}):
            raise TypeError
        tables = _tables(value["chunks"], blobs, chunk_size) if "chunks" in value else {}
        if set(tables) != {number for number, blob in enumerate(blobs) if blob.chunks}:
            raise refuse(MANIFEST_INVALID, "the index has tables of other blobs than the manifest says")
        blob_sizes = [entry.size for entry in blobs]
        found: dict[str, Place] = {}
        blob, end = -1, 0
        for row in value["files"]:
            path, place = _row(row)
            if path in found:
                raise refuse(MANIFEST_INVALID, "a file stands twice in the index", seen=path)
            if (place.blob, place.offset) == (blob + 1, 0) and end == (blob_sizes[blob] if blob >= 0 else 0):
                blob, end = place.blob, 0
            if (place.blob, place.offset) != (blob, end) or end + place.size > blob_sizes[blob]:
                raise refuse(MANIFEST_INVALID, "a file does not begin where the one before it ends", seen=path)
            end += place.size
            found[path] = place
        if blob != len(blob_sizes) - 1 or (blob >= 0 and end != blob_sizes[blob]):
            raise refuse(MANIFEST_INVALID, "the files do not fill the blobs")
    except (TypeError, ValueError, KeyError, IndexError):
        raise refuse(MANIFEST_INVALID, "the sealed index is not of its form") from None
    except PerunError as exc:
        raise refuse(MANIFEST_INVALID, exc.reasons[0].message, seen=exc.reasons[0].seen) from None
    check_tree(found)
    return Index(found, tables)


def check_tree(files: Mapping[str, Any], rule: Rule = MANIFEST_INVALID) -> None:
    """Raises `rule`'s error (`IntegrityError` for what was read, `UsageError` for what is about to be sealed) when one file's name is another's folder."""
    for path in files:
        folder = path.rpartition("/")[0]
        while folder:
            if folder in files:
                raise refuse(rule, "a name is both a file and a folder", seen=folder)
            folder = folder.rpartition("/")[0]


def _tables(value: Any, blobs: Sequence[BlobEntry], chunk_size: int) -> dict[int, Table]:
    """Tables that add up: to the blob's size and number of chunks, each chunk within the format's bounds but for the last."""
    found: dict[int, Table] = {}
    if not isinstance(value, dict):
        raise TypeError
    if sum(len(rows) for rows in value.values()) > MAX_RUNS:
        raise refuse(MANIFEST_INVALID, f"the index has more than {MAX_RUNS} runs of chunks")
    for name, rows in value.items():
        number = int(name)
        if str(number) != name or number < 0 or not rows:
            raise TypeError
        table = tuple((size, count) for size, count in rows)
        if any(type(n) is not int for row in table for n in row):
            raise TypeError
        if not within_bounds(table, chunk_size):
            raise refuse(MANIFEST_INVALID, "a chunk is smaller or larger than chunks are")
        blob = blobs[number]
        if (sum(size * count for size, count in table), sum(count for _, count in table)) != (blob.size, blob.chunks):
            raise refuse(MANIFEST_INVALID, "a blob's chunks do not add up to it")
        found[number] = table
    return found


def _row(row: Any) -> tuple[str, Place]:
    path, size, blob, offset = row
    if not isinstance(path, str) or any(type(n) is not int or n < 0 for n in (size, blob, offset)):
        raise TypeError
    return check_path(path), Place(size, blob, offset)
