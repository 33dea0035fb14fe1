"""Sealing: files in, blobs and a signed manifest out. Streams: memory is a few chunks, whatever the size."""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from perunml.sealing.chunks import DEFAULT_CHUNK, MAX_CHUNK, MIN_CHUNK, SALT, BlobCipher, chunk_count
from perunml.sealing.codes import PATH_REFUSED
from perunml.sealing.index import Place, check_path, check_tree, encode_index
from perunml.sealing.manifest import BlobEntry, Manifest
from perunml.sealing.merkle import RootHasher, leaf_hash
from perunml.sealing.store import BlobSink
from perunml.wire.dsse import Envelope, signed
from perunml.wire.errors import refuse
from perunml.wire.identity import Signer

SHARED_BLOB = 64 * 2**20
"""Files are put together into blobs of about this many bytes; a larger one has its own."""
AHEAD = 4
"""Chunks under way at once: two cores' worth, twice."""

Progress = Callable[[int, int], None]
"""Called with plaintext bytes done and in all."""
Source = Path | bytes


def seal_folder(
    source: Path,
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
) -> Envelope:
    """Seals a folder (or one file) and returns the signed manifest. Raises `UsageError` (path_refused) for symbolic
    links, special files and names that are not portable, `LimitReached` (disk_full)."""
    return seal_files(
        collect(source),
        sink,
        name=name,
        kind=kind,
        owner=owner,
        data_key=data_key,
        version=version,
        asset_id=asset_id,
        chunk_size=chunk_size,
        progress=progress,
    )


def collect(source: Path) -> dict[str, Path]:
    """Every file under `source` by its path, sorted; `source` itself when it is a file."""
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
) -> Envelope:
    """As `seal_folder`, for files given by name (paths or bytes)."""
    if not MIN_CHUNK <= chunk_size <= MAX_CHUNK:
        raise ValueError(f"chunk_size is {MIN_CHUNK} to {MAX_CHUNK} bytes")
    for path in files:
        check_path(path)
    check_tree(files)
    asset = asset_id or secrets.token_hex(16)
    total = sum(_size(item) for item in files.values())
    places: dict[str, Place] = {}
    blobs: list[BlobEntry] = []
    tree = RootHasher()
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:

        def seal(size: int, pieces: Iterator[bytes], tick: Callable[[int], None]) -> BlobEntry:
            blob = BlobEntry(secrets.token_hex(16), os.urandom(SALT), size)
            cipher = BlobCipher(data_key, asset, blob.id, blob.salt)
            _seal_blob(blob, cipher, pieces, chunk_size, sink, tree, pool, tick)
            return blob

        for group in _groups(files):
            offset = 0
            for path, size in group:
                places[path] = Place(size, len(blobs), offset)
                offset += size
            blobs.append(seal(offset, _pieces([(files[p], s, p) for p, s in group], chunk_size), advance))
        index = encode_index(places)
        sealed_index = seal(len(index), _pieces([(index, len(index), "")], chunk_size), lambda _: None)
    manifest = Manifest(
        asset, name, kind, version, owner.public.text, chunk_size, tuple(blobs), sealed_index,
        "sha256:" + tree.root().hex(), total,
    )  # fmt: skip
    # What is written is read back as strictly as what others send: a bad name or kind is the caller's to hear.
    body = manifest.as_json()
    Manifest.from_json({"apiVersion": "perunml/v1", "kind": "Manifest", **body})
    return signed("Manifest", body, owner)


def _groups(files: Mapping[str, Source]) -> Iterator[list[tuple[str, int]]]:
    """Files, in order, put together until a blob is full."""
    group: list[tuple[str, int]] = []
    room = SHARED_BLOB
    for path, item in files.items():
        size = _size(item)
        if group and size > room:
            yield group
            group, room = [], SHARED_BLOB
        group.append((path, size))
        room -= size
    if group:
        yield group


def _size(item: Source) -> int:
    return len(item) if isinstance(item, bytes) else item.stat().st_size


def _pieces(items: list[tuple[Source, int, str]], chunk_size: int) -> Iterator[bytes]:
    """The items' bytes one after the other, in pieces of exactly `chunk_size` but for the last."""
    rest = bytearray()
    for item, size, path in items:
        left = size
        for piece in _read(item, chunk_size):
            left -= len(piece)
            rest += piece
            while len(rest) >= chunk_size:
                yield bytes(rest[:chunk_size])
                del rest[:chunk_size]
        if left != 0:
            raise refuse(PATH_REFUSED, "a file changed while it was sealed", seen=path)
    yield bytes(rest)


def _read(item: Source, chunk_size: int) -> Iterator[bytes]:
    if isinstance(item, bytes):
        yield item
        return
    with item.open("rb", buffering=0) as file:
        while piece := file.read(chunk_size):
            yield piece


def _seal_blob(
    blob: BlobEntry,
    cipher: BlobCipher,
    pieces: Iterator[bytes],
    chunk_size: int,
    sink: BlobSink,
    tree: RootHasher,
    pool: ThreadPoolExecutor,
    tick: Callable[[int], None],
) -> None:
    last = chunk_count(blob.size, chunk_size) - 1

    def work(index: int, piece: bytes) -> tuple[bytes, bytes, int]:
        sealed = cipher.seal(index, index == last, piece)
        return sealed, leaf_hash(sealed), len(piece)

    with sink.create(blob.id) as file:
        under_way: deque[Future[tuple[bytes, bytes, int]]] = deque()

        def finish_one() -> None:
            sealed, leaf, size = under_way.popleft().result()
            file.write(sealed)
            tree.add_leaf(leaf)
            tick(size)

        for index, piece in enumerate(pieces):
            if index > last:  # a size that divides evenly leaves one empty piece at the end
                break
            under_way.append(pool.submit(work, index, piece))
            if len(under_way) >= AHEAD:
                finish_one()
        while under_way:
            finish_one()
