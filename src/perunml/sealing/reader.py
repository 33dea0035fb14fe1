"""Reading sealed assets: random access, each chunk opened into a buffer that is used again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from perunml.sealing.chunks import TAG, BlobCipher, Chunk, Layout
from perunml.sealing.codes import MANIFEST_INVALID, TREE_MISMATCH
from perunml.sealing.index import MAX_INDEX, Place, decode_index
from perunml.sealing.keys import wipe
from perunml.sealing.manifest import BlobEntry, Manifest
from perunml.sealing.merkle import RootHasher
from perunml.sealing.store import BlobSource
from perunml.wire.errors import refuse

TOGETHER = 4
"""Whole chunks asked for at once from which a second thread helps; below, starting it costs what it saves."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of one chunk of `blob`: `count` bytes from its byte `start`."""

    blob: BlobEntry
    chunk: Chunk
    start: int
    count: int


class SealedReader:
    """An open asset. Not for several threads at once: each wants a reader of its own (they share nothing). Long reads take a second thread where
    `second_thread` is not turned off."""

    def __init__(self, manifest: Manifest, data_key: bytes | bytearray, source: BlobSource) -> None:
        """Opens the index. Raises `IntegrityError` for a wrong key and for anything altered."""
        self.manifest = manifest
        self.second_thread = True
        self._source = source
        self._key = bytearray(data_key)
        self._ciphers: dict[str, BlobCipher] = {}
        self._sealed = bytearray(manifest.chunk_size + TAG)
        self._plain = bytearray(manifest.chunk_size)
        self._held: tuple[str, int] | None = None
        self._layouts: dict[str, Layout] = {}
        if manifest.index.size > MAX_INDEX:
            raise refuse(MANIFEST_INVALID, f"the index is larger than {MAX_INDEX} bytes")
        index = bytearray(manifest.index.size)
        self._read_blob(manifest.index, 0, memoryview(index))
        found = decode_index(bytes(index), manifest.blobs, manifest.chunk_size)
        self._places = found.files
        for number, table in found.tables.items():
            blob = manifest.blobs[number]
            self._layouts[blob.id] = Layout(blob.size, manifest.chunk_size, table)
        wipe(index)

    def __enter__(self) -> SealedReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def files(self) -> dict[str, int]:
        """Path -> size in bytes, in the order of the index."""
        return {path: place.size for path, place in self._places.items()}

    def read_into(self, path: str, offset: int, buffer: memoryview | bytearray) -> int:
        """Fills `buffer` from byte `offset` of a file and returns how many bytes there were (fewer only at its end).
        Raises `KeyError` for an unknown path, `ValueError` for a negative offset, `IntegrityError`."""
        place = self._places[path]
        if offset < 0:
            raise ValueError("negative offset")
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), place.size - offset))
        if count:
            self._read_blob(self.manifest.blobs[place.blob], place.offset + offset, view[:count])
        return count

    def read_file(self, path: str) -> bytes:
        """A whole file."""
        data = bytearray(self._places[path].size)
        self.read_into(path, 0, data)
        return bytes(data)

    def verify_tree(self) -> None:
        """Reads all ciphertext once and compares its Merkle root with the manifest's. Raises `IntegrityError`
        (tree_mismatch, blob_missing, blob_truncated). To be called where an asset is first fetched to a machine."""
        verify_tree(self.manifest, self._source)

    def place(self, path: str) -> Place:
        return self._places[path]

    def spans(self, path: str, offset: int, count: int) -> Iterator[Span]:
        """Where bytes of a file lie, in order, as many as there are from byte `offset`. Raises `KeyError`."""
        place = self._places[path]
        blob = self.manifest.blobs[place.blob]
        layout = self._layout(blob)
        left, at = max(0, min(count, place.size - offset)), place.offset + offset
        while left:
            chunk = layout.find(at)
            start = at - chunk.start
            part = min(left, chunk.size - start)
            yield Span(blob, chunk, start, part)
            left, at = left - part, at + part

    def open_chunk(self, blob: BlobEntry, chunk: Chunk, out: memoryview, sealed: bytearray, source: BlobSource) -> None:
        """One whole chunk into `out`, of its plaintext's size, by way of `sealed` (a chunk and its tag) and from a `source` of the caller's own: this
        alone may be called by several threads at once. Raises `IntegrityError`."""
        buffer = memoryview(sealed)[: chunk.size + TAG]
        source.read(blob.id, chunk.stored, buffer)
        last = chunk.index == self.manifest.chunks(blob) - 1
        self._cipher(blob).open_into(chunk.index, last, buffer, out)

    def close(self) -> None:
        """Wipes the key and the buffers."""
        wipe(self._key)
        wipe(self._plain)
        self._ciphers.clear()
        self._held = None

    def _read_blob(self, blob: BlobEntry, offset: int, out: memoryview) -> None:
        layout = self._layout(blob)
        while out:
            chunk = layout.find(offset)
            within = offset - chunk.start
            if self.second_thread and within == 0 and (whole := min(chunk.alike, len(out) // chunk.size)) >= TOGETHER:
                self._open_together(blob, chunk, whole, out[: whole * chunk.size])
                out, offset = out[whole * chunk.size :], offset + whole * chunk.size
                continue
            count = min(chunk.size - within, len(out))
            if count == chunk.size:  # a whole chunk: straight into the caller's buffer, no copy more
                self._open(blob, chunk, out[:count])
            else:
                if self._held != (blob.id, chunk.index):
                    self._held = None
                    self._open(blob, chunk, memoryview(self._plain)[: chunk.size])
                    self._held = (blob.id, chunk.index)
                out[:count] = memoryview(self._plain)[within : within + count]
            out, offset = out[count:], offset + count
        if blob.size == 0 and self._held != (blob.id, 0):
            self._open(blob, layout.find(0), memoryview(self._plain)[:0])  # even an empty blob's end is sealed

    def _open_together(self, blob: BlobEntry, first: Chunk, count: int, out: memoryview) -> None:
        """`count` whole chunks of one size, half of them in a second thread: reading and opening leave the interpreter's lock."""
        size = first.size
        half = count // 2
        self._cipher(blob)  # made, and the blob opened, before there are two of us
        self._source.read(blob.id, 0, memoryview(b""))

        def one(i: int, sealed: bytearray) -> None:
            chunk = Chunk(first.index + i, first.start + i * size, size, 1)
            self.open_chunk(blob, chunk, out[i * size : (i + 1) * size], sealed, self._source)

        def second() -> None:
            sealed = bytearray(size + TAG)
            for i in range(half, count):
                one(i, sealed)

        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(second)
            for i in range(half):
                one(i, self._sealed)
            other.result()

    def _open(self, blob: BlobEntry, chunk: Chunk, out: memoryview) -> None:
        self.open_chunk(blob, chunk, out, self._sealed, self._source)

    def _layout(self, blob: BlobEntry) -> Layout:
        found = self._layouts.get(blob.id)
        if found is None:
            found = self._layouts[blob.id] = Layout(blob.size, self.manifest.chunk_size)
        return found

    def _cipher(self, blob: BlobEntry) -> BlobCipher:
        cipher = self._ciphers.get(blob.id)
        if cipher is None:
            cipher = self._ciphers[blob.id] = BlobCipher(self._key, self.manifest.asset_id, blob.id, blob.salt)
        return cipher


def verify_tree(manifest: Manifest, source: BlobSource) -> None:
    """The manifest's Merkle root over the store's ciphertext, in pieces as long as a whole chunk is; needs no key. Raises `IntegrityError`."""
    tree = RootHasher()
    buffer = bytearray(manifest.chunk_size + TAG)
    for blob in manifest.all_blobs:
        left, offset = manifest.sealed_size(blob), 0
        while left:
            part = memoryview(buffer)[: min(left, len(buffer))]
            source.read(blob.id, offset, part)
            tree.add(part)
            left, offset = left - len(part), offset + len(part)
    if (root := "sha256:" + tree.root().hex()) != manifest.merkle_root:
        raise refuse(TREE_MISMATCH, "the ciphertext is not what was sealed", expected=manifest.merkle_root, seen=root)
