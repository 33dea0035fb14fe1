"""Sealing: files in, blobs and a signed manifest out. Streams: memory is a few chunks, whatever the size."""

from __future__ import annotations

import io
import os
import secrets
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any

from perunml.sealing.chunks import (
    DEFAULT_CHUNK,
    MAX_CHUNK,
    MAX_RUNS,
    MIN_CHUNK,
    SALT,
    TAG,
    BlobCipher,
    Layout,
    Table,
    within_bounds,
)
from perunml.sealing.codes import PATH_REFUSED
from perunml.sealing.index import Place, check_path, check_tree, encode_index
from perunml.sealing.journal import Journal, Kept
from perunml.sealing.manifest import MAX_BLOBS, BlobEntry, Manifest
from perunml.sealing.merkle import RootHasher, Windows, leaf_hash
from perunml.sealing.store import BlobSink
from perunml.wire.dsse import API_VERSION, Envelope, signed
from perunml.wire.errors import UsageError, refuse
from perunml.wire.identity import Signer

SHARED_BLOB = 64 * 2**20
"""Files are put together into blobs of about this many bytes; a larger one has its own."""
AHEAD = 4
"""Chunks under way at once: two cores' worth, twice."""

Progress = Callable[[int, int], None]
"""Called with plaintext bytes done and in all."""
Source = Path | bytes


def collect(source: Path) -> dict[str, Path]:
    """Every file under `source` by its path, sorted; `source` itself when it is a file. Raises `UsageError`
    (path_refused) for symbolic links, special files and names that are not portable."""
    mode = os.lstat(source).st_mode
    if S_ISREG(mode):
        return {check_path(source.name): source}
    found: dict[str, Path] = {}
    folders = [source.resolve() if source.is_dir() else source]
    top = folders[0]
    while folders:
        for path in folders.pop().iterdir():
            mode = path.lstat().st_mode
            name = check_path(path.relative_to(top).as_posix())
            if S_ISDIR(mode):
                folders.append(path)
            elif S_ISREG(mode):
                found[name] = path
            else:
                raise refuse(PATH_REFUSED, "a symbolic link or special file is not sealed", seen=name)
    return dict(sorted(found.items()))


def seal_files(
    files: Mapping[str, Source],
    sink: BlobSink,
    *,
    name: str,
    kind: str,
    owner: Signer,
    data_key: bytes | bytearray,
    version: int = 1,
    asset_id: str | None = None,
    chunk_size: int = DEFAULT_CHUNK,
    progress: Progress | None = None,
    journal: Journal | None = None,
    tables: Mapping[str, Table] | None = None,
) -> Envelope:
    """Seals files, given by the names that they shall have (see `collect`), and returns the signed manifest. With a `journal` of this data key and asset, blobs of files that did
    not change are taken from the sink as they are, and what an interrupt leaves there is taken next time. Files with `tables`
    (`borders.find_table`) have chunks of those sizes, and a blob of their own, but for the smallest of them where that were more blobs than an asset may have. Raises
    `ValueError` for chunks that the format has not, `UsageError` (path_refused) for files that change meanwhile or are none, `LimitReached` (disk_full)."""
    if not MIN_CHUNK <= chunk_size <= MAX_CHUNK:
        raise ValueError(f"chunk_size is {MIN_CHUNK} to {MAX_CHUNK} bytes")
    for path in files:
        check_path(path)
    check_tree(files, PATH_REFUSED)
    asset = asset_id or secrets.token_hex(16)
    sizes = {path: _size(path, item) for path, item in files.items()}
    total = sum(sizes.values())
    tables = {path: table for path, table in (tables or {}).items() if table and _adds_up(table, sizes[path])}
    if not all(within_bounds(table, chunk_size) for table in tables.values()):
        raise ValueError("a table has chunks that are too small or too large")
    blank = BlobEntry("0" * 32, bytes(SALT), 0)

    def manifest(blobs: list[BlobEntry], index: BlobEntry, root: bytes, size: int) -> dict[str, Any]:
        body = Manifest(
            asset, name, kind, version, owner.public.text, chunk_size, tuple(blobs), index, "sha256:" + root.hex(), size
        ).as_json()
        # What is written is read back as strictly as what others send.
        Manifest.from_json({"apiVersion": API_VERSION, "kind": "Manifest", **body})
        return body

    manifest([], blank, bytes(32), 0)  # a bad name or kind is the caller's to hear before anything is written
    groups, tables, index = _planned(sizes, tables)
    blobs: list[BlobEntry] = []
    made: list[str] = []
    tree = RootHasher()
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    with _Spare(chunk_size) as spare, ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:

        def seal(
            items: list[tuple[Source, int, str]], size: int, tick: Callable[[int], None], table: Table = ()
        ) -> Kept:
            layout = Layout(size, chunk_size, table)
            blob = BlobEntry(secrets.token_hex(16), os.urandom(SALT), size, layout.count if table else 0)
            cipher = BlobCipher(data_key, asset, blob.id, blob.salt)
            leaves = _seal_blob(blob, cipher, _pieces(items, spare, layout), layout, spare, sink, pool, tick)
            made.append(blob.id)
            return Kept(blob, tuple(leaves), table)

        def kept(group: list[tuple[str, int]], size: int) -> Kept:
            named = [(path, item) for path, _ in group if isinstance(item := files[path], Path)]
            table = tables.get(group[0][0], ())
            items = [(files[path], length, path) for path, length in group]
            if journal is None or len(named) != len(group):
                return seal(items, size, advance, table)
            found = journal.find(named)
            if found is not None and (found.blob.size, found.table) == (size, table):
                advance(size)
                return found
            before = journal.stamp(named)
            found = seal(items, size, advance, table)
            journal.add(before, found)
            return found

        try:
            for group in groups:
                one = kept(group, sum(size for _, size in group))
                blobs.append(one.blob)
                tree.add_leaves(one.leaves)
            last = seal([(index, len(index), "")], len(index), lambda _: None)
            tree.add_leaves(last.leaves)
            return signed("Manifest", manifest(blobs, last.blob, tree.root(), total), owner)
        except BaseException as exc:
            # Without a manifest nobody could ever read these, and the disk may just have filled up.
            if journal is None or isinstance(exc, Exception):
                for blob_id in made:
                    sink.discard(blob_id)
            raise


def _planned(
    sizes: Mapping[str, int], tables: Mapping[str, Table]
) -> tuple[list[list[tuple[str, int]]], Mapping[str, Table], bytes]:
    """Which files lie together in which blobs, which of them by tables, and the index that says so: before anything is sealed, which may take hours. Where the tables make too many blobs,
    or too long an index, the smaller half of the files goes without, again and again. Raises `UsageError` (path_refused): too many files."""
    while True:
        groups = list(_groups(sizes, tables))
        try:
            if len(groups) > MAX_BLOBS:
                raise refuse(
                    PATH_REFUSED, f"more than {MAX_BLOBS} blobs: the files are too many and too large for one asset"
                )
            if sum(map(len, tables.values())) > MAX_RUNS:
                raise refuse(PATH_REFUSED, "too many records' borders")
            places: dict[str, Place] = {}
            for blob, group in enumerate(groups):
                offset = 0
                for path, size in group:
                    places[path] = Place(size, blob, offset)
                    offset += size
            aligned = {blob: tables[group[0][0]] for blob, group in enumerate(groups) if group[0][0] in tables}
            return groups, tables, encode_index(places, aligned)
        except UsageError:
            if not tables:
                raise
            largest = sorted(tables, key=lambda path: (sizes[path], path), reverse=True)
            tables = {path: tables[path] for path in largest[: len(largest) // 2]}


def _groups(sizes: Mapping[str, int], alone: Container[str]) -> Iterator[list[tuple[str, int]]]:
    """Files, in order, put together until a blob is full; those that are `alone` by themselves."""
    group: list[tuple[str, int]] = []
    room = SHARED_BLOB
    for path, size in sizes.items():
        if group and (size > room or path in alone):
            yield group
            group, room = [], SHARED_BLOB
        group.append((path, size))
        room = -1 if path in alone else room - size
    if group:
        yield group


def _size(path: str, item: Source) -> int:
    if isinstance(item, bytes):
        return len(item)
    found = item.lstat()
    if not S_ISREG(found.st_mode):
        raise refuse(PATH_REFUSED, "a symbolic link or special file is not sealed", seen=path)
    return found.st_size


class _Spare:
    """Buffers that are used again: new memory costs more than what is done with it. One more than are under way at once, which the next piece is read into."""

    def __init__(self, chunk_size: int) -> None:
        self.chunk_size = chunk_size
        self._plain = [bytearray(chunk_size) for _ in range(AHEAD + 1)]
        self._every = tuple(self._plain)
        self._sealed = [bytearray(chunk_size + TAG) for _ in range(AHEAD + 1)]

    def plain(self, size: int) -> memoryview:
        return memoryview(self._plain.pop())[:size]

    def sealed(self, size: int) -> memoryview:
        return memoryview(self._sealed.pop())[: size + TAG]

    def back(self, plain: memoryview, sealed: memoryview) -> None:
        """Neither is looked at any more."""
        self._plain.append(_whole(plain))
        self._sealed.append(_whole(sealed))

    def __enter__(self) -> _Spare:
        return self

    def __exit__(self, *_: object) -> None:
        """No thread works any more: wipe what was read."""
        for buffer in self._every:
            buffer[:] = bytes(len(buffer))


def _whole(view: memoryview) -> bytearray:
    found = view.obj
    assert isinstance(found, bytearray), "views are of these buffers"
    return found


def _adds_up(table: Table, size: int) -> bool:
    """A file that was written to since its borders were looked for has chunks of one size."""
    return sum(length * count for length, count in table) == size


def _pieces(items: list[tuple[Source, int, str]], spare: _Spare, layout: Layout) -> Iterator[memoryview]:
    """The items' bytes one after the other, in pieces of a chunk each; at least one."""
    total, done = sum(size for _, size, _ in items), 0
    piece, filled = spare.plain(layout.find(0).size), 0
    for item, size, path in items:
        with _opened(item, path) as file:
            left = size
            while left:
                got = file.readinto(piece[filled : filled + left])
                if not got:
                    raise refuse(PATH_REFUSED, "a file became shorter while it was sealed", seen=path)
                left, filled, done = left - got, filled + got, done + got
                if filled == len(piece) and done < total:
                    yield piece
                    piece, filled = spare.plain(layout.find(done).size), 0
            if file.read(1):
                raise refuse(PATH_REFUSED, "a file became longer while it was sealed", seen=path)
    yield piece


def _opened(item: Source, path: str) -> io.BytesIO | io.FileIO:
    if isinstance(item, bytes):
        return io.BytesIO(item)
    try:
        # Looked at again once it is open: what was a file a moment ago may be a link or a pipe now.
        file = io.FileIO(os.open(item, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as exc:
        raise refuse(PATH_REFUSED, f"a file cannot be read: {os.strerror(exc.errno or 0)}", seen=path) from None
    if not S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise refuse(PATH_REFUSED, "a symbolic link or special file is not sealed", seen=path)
    return file


def _seal_blob(
    blob: BlobEntry,
    cipher: BlobCipher,
    pieces: Iterator[memoryview],
    layout: Layout,
    spare: _Spare,
    sink: BlobSink,
    pool: ThreadPoolExecutor,
    tick: Callable[[int], None],
) -> list[bytes]:
    """Seals one blob; its leaves in the Merkle tree, which are pieces as long as a whole chunk is. Where all chunks but the last are that long, a leaf is a chunk's."""
    leaves: list[bytes] = []
    last = layout.count - 1
    windows = Windows(spare.chunk_size + TAG) if blob.chunks else None

    def work(index: int, piece: memoryview, sealed: memoryview) -> tuple[memoryview, memoryview, bytes]:
        cipher.seal_into(index, index == last, piece, sealed)
        return piece, sealed, leaf_hash(sealed) if windows is None else b""

    with sink.create(blob.id) as file:
        under_way: deque[Future[tuple[memoryview, memoryview, bytes]]] = deque()

        def finish_one() -> None:
            piece, sealed, leaf = under_way.popleft().result()
            file.write(sealed)
            if windows is None:
                leaves.append(leaf)
            else:
                windows.add(sealed)
            size = len(piece)
            spare.back(piece, sealed)
            tick(size)

        for index, piece in enumerate(pieces):
            under_way.append(pool.submit(work, index, piece, spare.sealed(len(piece))))
            if len(under_way) >= AHEAD:
                finish_one()
        while under_way:
            finish_one()
    return leaves if windows is None else windows.leaves()
