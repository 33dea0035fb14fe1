"""Where blobs lie: two small interfaces, and a folder that has both."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from perunml.sealing.codes import BLOB_EXISTS, BLOB_MISSING, BLOB_TRUNCATED, DISK_FULL
from perunml.sealing.keys import WrappedKeys
from perunml.wire.canonical import canonical, load_json
from perunml.wire.dsse import Envelope
from perunml.wire.errors import refuse

MAX_MANIFEST = 8 * 2**20
MAX_OPEN = 64
"""Files held open by one store; a process may commonly have 1,024."""


class BlobSource(Protocol):
    """Reads ciphertext."""

    def read(self, blob_id: str, offset: int, buffer: memoryview) -> None:
        """Fills `buffer` from byte `offset` of the blob. Raises `IntegrityError` (blob_missing, blob_truncated). Once a blob was
        read from, two threads may read it at the same time."""


class BlobSink(Protocol):
    """Takes ciphertext, each blob once."""

    def create(self, blob_id: str) -> AbstractContextManager[BinaryIO]:
        """A file to write the blob to. Left by an exception, nothing of it stays; left well, it is durable.
        Raises `IntegrityError` (blob_exists), `LimitReached` (disk_full)."""

    def discard(self, blob_id: str) -> None:
        """Removes a blob that was created in a sealing that failed later; nothing refers to it."""


class FolderStore:
    """``blobs/<id>``, ``manifest.json`` and ``keys.json`` under a folder. Files appear whole or not at all."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs"
        self._open: dict[str, int] = {}

    def __enter__(self) -> FolderStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        self.close()

    def read(self, blob_id: str, offset: int, buffer: memoryview) -> None:
        fd = self._fd(blob_id)
        while buffer:
            got = os.preadv(fd, [buffer], offset)
            if got == 0:
                raise refuse(BLOB_TRUNCATED, f"blob {blob_id} ends at byte {offset}")
            buffer, offset = buffer[got:], offset + got

    def size(self, blob_id: str) -> int:
        """Ciphertext bytes. Raises `IntegrityError` (blob_missing)."""
        return os.fstat(self._fd(blob_id)).st_size

    def path(self, blob_id: str) -> Path:
        return self._blobs / blob_id

    def _fd(self, blob_id: str) -> int:
        if blob_id not in self._open:
            if len(self._open) >= MAX_OPEN:
                os.close(self._open.pop(next(iter(self._open))))
            try:
                self._open[blob_id] = os.open(self._blobs / blob_id, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                raise refuse(BLOB_MISSING, f"blob {blob_id} is not in the store") from None
            except OSError as exc:
                if exc.errno == errno.ELOOP:
                    raise refuse(BLOB_MISSING, f"blob {blob_id} is a symbolic link, not a blob") from None
                raise
        return self._open[blob_id]

    @contextmanager
    def create(self, blob_id: str) -> Iterator[BinaryIO]:
        target = self._blobs / blob_id
        with disk_full():
            self._blobs.mkdir(parents=True, exist_ok=True)
            if target.exists():
                raise refuse(BLOB_EXISTS, f"blob {blob_id} is there already")
            with _durable(target, replace=False) as file:
                yield file

    def discard(self, blob_id: str) -> None:
        if blob_id in self._open:
            os.close(self._open.pop(blob_id))
        (self._blobs / blob_id).unlink(missing_ok=True)

    def save(self, manifest: Envelope, keys: WrappedKeys) -> None:
        """Writes the manifest last: an asset without one was never sealed."""
        self.save_keys(keys)
        write_file(self.root / "manifest.json", manifest.encode())

    def save_keys(self, keys: WrappedKeys) -> None:
        write_file(self.root / "keys.json", canonical(keys.as_json()))

    def manifest(self) -> Envelope:
        """Raises `IntegrityError` (blob_missing) when there is none."""
        return Envelope.from_json(load_json(self._document("manifest.json"), limit=MAX_MANIFEST))

    def keys(self) -> WrappedKeys:
        return WrappedKeys.from_json(load_json(self._document("keys.json")))

    def _document(self, name: str) -> bytes:
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            raise refuse(BLOB_MISSING, f"{name} is not in the store", seen=str(self.root)) from None


def write_file(path: Path, data: bytes) -> None:
    """Replaces a file at once and durably. Raises `LimitReached` (disk_full); the old file then stays."""
    with disk_full():
        path.parent.mkdir(parents=True, exist_ok=True)
        with _durable(path, replace=True) as file:
            file.write(data)


@contextmanager
def disk_full() -> Iterator[None]:
    """Turns "no space left", "quota exceeded" and "file too large" into `LimitReached` (disk_full)."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise refuse(DISK_FULL, "no room left", seen=os.strerror(exc.errno)) from None
        raise


@contextmanager
def _durable(target: Path, *, replace: bool) -> Iterator[BinaryIO]:
    # A hidden name first, so that a crash leaves no half file under the real one.
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with open(part, "xb", buffering=0) as file:
            yield _Whole(file)  # type: ignore[misc]  # the four methods of BinaryIO that writers use
            os.fsync(file.fileno())
        if replace:
            os.replace(part, target)
        else:
            # A link is made only where no name stands yet: of two writers of one name, one is told so.
            try:
                os.link(part, target)
            except FileExistsError:
                raise refuse(BLOB_EXISTS, f"{target.name} is there already") from None
            part.unlink()
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
        raise


class _Whole:
    """An unbuffered file whose `write` writes all of it: raw writes may be short, above all on a filling disk."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw

    def write(self, data: bytes | bytearray | memoryview) -> int:
        left = memoryview(data)
        while left:
            left = left[self._raw.write(left) :]
        return len(data)
