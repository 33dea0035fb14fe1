"""What is sealed already: blobs that are whole, by the files that went into them, so that none is read and sealed twice.

A line is written when its blob is durable. It is authenticated under the data key, and says of the files only a keyed digest of their names, sizes, times and
inodes: a line that anybody altered, or that is of another key or asset, is none; and the journal shows nothing to who finds it. A file that was changed has other times, and is read again.
"""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from perunml.sealing.chunks import SALT, TAG, Layout, Table, chunk_count, sealed_size
from perunml.sealing.manifest import BlobEntry
from perunml.wire.canonical import canonical, load_canonical
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import PerunError

MAX_LINE = 64 * 2**20
"""Bytes: 200,000 leaves of 32, a blob of 200 GiB in chunks of 1 MiB, and a table of a million runs."""
_LEAF = 32
SETTLED = 2_000_000_000
"""Nanoseconds since a file was changed after which its times tell it from what it becomes: file systems count time in steps, the coarsest of 2 s (FAT)."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A whole blob, its leaves (32 bytes each) in the Merkle tree, and its chunks' `table` where they follow records' borders."""

    blob: BlobEntry
    leaves: tuple[bytes, ...]
    table: Table = ()


class Journal:
    """The journal of one asset under one data key; `path` is appended to."""

    def __init__(self, path: Path, data_key: bytes | bytearray, asset_id: str, chunk_size: int) -> None:
        self._path = path
        self._chunk_size = chunk_size
        context = canonical({"label": "perunml/seal-journal/v1", "asset_id": asset_id, "chunk_size": chunk_size})
        self._key = HKDF(hashes.SHA256(), 32, None, context).derive(bytes(data_key))
        self._kept: dict[str, Kept] = {}
        self._load()

    @property
    def blobs(self) -> frozenset[str]:
        """Ids of the blobs that it knows."""
        return frozenset(kept.blob.id for kept in self._kept.values())

    def only(self, there: Mapping[str, int]) -> None:
        """Forget blobs that are not `there` (stored bytes by id) in their full size."""
        self._kept = {what: kept for what, kept in self._kept.items() if there.get(kept.blob.id) == self._stored(kept)}

    def find(self, files: Iterable[tuple[str, Path]]) -> Kept | None:
        """The blob of exactly these files, in this order, as they are now."""
        return self._kept.get(self.stamp(files))

    def add(self, what: str, kept: Kept) -> None:
        """Note a blob that is durable, durably. `what` is the files' `stamp` from before they were read: who changed one meanwhile has another."""
        if not what:
            return
        self._kept[what] = kept
        blob = kept.blob
        body = {
            "files": what,
            "id": blob.id,
            "salt": b64(blob.salt),
            "size": blob.size,
            "leaves": b64(b"".join(kept.leaves)),
            "table": kept.table,
        }
        line = canonical({**body, "mac": self._mac(canonical(body))}) + b"\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _load(self) -> None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        for line in data.split(b"\n"):
            try:
                self._read(load_canonical(line, limit=MAX_LINE))
            except (PerunError, KeyError, TypeError, ValueError, AttributeError):
                continue  # cut by a crash, of another key, or altered: its files are read again

    def _read(self, value: dict[str, object]) -> None:
        mac = value.pop("mac")
        if not isinstance(mac, str) or not hmac.compare_digest(mac, self._mac(canonical(value))):
            raise ValueError
        size, leaves = value["size"], unb64(str(value["leaves"]))
        if type(size) is not int or not isinstance(rows := value["table"], list):
            raise ValueError
        table = tuple((length, count) for length, count in rows)
        chunks = Layout(size, self._chunk_size, table).count if table else 0
        blob = BlobEntry(str(value["id"]), unb64(str(value["salt"]), size=SALT), size, chunks)
        parts = tuple(leaves[at : at + _LEAF] for at in range(0, len(leaves), _LEAF))
        kept = Kept(blob, parts, table)
        if len(leaves) != _LEAF * -(-self._stored(kept) // (self._chunk_size + TAG)):
            raise ValueError
        self._kept[str(value["files"])] = kept

    def _stored(self, kept: Kept) -> int:
        """Bytes of its ciphertext."""
        return sealed_size(kept.blob.size, kept.blob.chunks or chunk_count(kept.blob.size, self._chunk_size))

    def stamp(self, files: Iterable[tuple[str, Path]]) -> str:
        """A keyed digest of what these files are; empty where one was changed just now, for a second change might not show, and where one cannot be looked
        at, which who reads it then tells."""
        rows = []
        recent = time.time_ns() - SETTLED
        for name, path in files:
            try:
                at = path.lstat()
            except OSError:
                return ""
            if max(at.st_mtime_ns, at.st_ctime_ns) > recent:
                return ""
            # Numbers as text: nanoseconds are beyond what JSON's numbers hold exactly.
            rows.append([name, *map(str, (at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino, at.st_dev))])
        return self._mac(canonical(rows))

    def _mac(self, data: bytes) -> str:
        return hmac.new(self._key, data, "sha256").hexdigest()
