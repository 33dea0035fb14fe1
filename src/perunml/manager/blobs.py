"""Blobs on disk: ``blobs/<asset's hex>/<blob>``. The database says how much of each is durable; what lies behind that is
from a request that was never acknowledged, and is written over.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perunml.manager.codes import PART_OUT_OF_ORDER, STATE_DAMAGED
from perunml.manager.config import sync_folder
from perunml.sealing.codes import DISK_FULL
from perunml.wire.errors import PerunError, refuse


class BlobFolder:
    """Names are checked before they get here: an asset's digest and a blob's id come from the database."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._busy: set[tuple[str, str]] = set()

    @contextmanager
    def busy(self, asset: str, blob: str) -> Iterator[None]:
        """One writer per blob. Raises `IntegrityError` (part_out_of_order)."""
        if (asset, blob) in self._busy:
            raise refuse(PART_OUT_OF_ORDER, "another part of this blob is being written")
        self._busy.add((asset, blob))
        try:
            yield
        finally:
            self._busy.discard((asset, blob))

    def write(self, asset: str, blob: str, offset: int, received: int, part: bytes) -> None:
        """Make `part` durable at `offset`; of the blob, `received` bytes are. A part that is held already must be the
        same. Raises `IntegrityError` (part_out_of_order), `LimitReached` (disk_full)."""
        if offset > received or (offset < received < offset + len(part)):
            raise refuse(PART_OUT_OF_ORDER, "a part does not follow", expected=f"offset {received}", seen=str(offset))
        if offset < received:
            if self.read(asset, blob, offset, len(part)) != part:
                raise refuse(PART_OUT_OF_ORDER, "a part differs from what was received before", seen=f"offset {offset}")
            return
        path = self._path(asset, blob)
        try:
            if not received:
                # What lies there is of a request that was never acknowledged, and may be another version's file too.
                path.unlink(missing_ok=True)
            new = not path.exists()
            if new:
                path.parent.mkdir(mode=0o700, exist_ok=True)
                sync_folder(self._root)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                _write_all(descriptor, part, offset)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if new:
                sync_folder(path.parent)
        except OSError as exc:
            raise _failed(exc) from None

    def share(self, earlier: str, asset: str, blob: str) -> bool:
        """Give the file of a whole blob a second name, for another version of the asset. False where that cannot be: it is sent then."""
        path = self._path(asset, blob)
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.unlink(missing_ok=True)
            os.link(self._path(earlier, blob), path, follow_symlinks=False)
            sync_folder(path.parent)
            sync_folder(self._root)
        except OSError:
            return False
        return True

    def remove(self, asset: str) -> None:
        """Everything of an asset; nothing is said when there is nothing."""
        shutil.rmtree(self._root / asset.removeprefix("sha256:"), ignore_errors=True)

    def read(self, asset: str, blob: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises `IntegrityError` (state_damaged): the file is shorter than the database says."""
        try:
            descriptor = os.open(self._path(asset, blob), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            raise refuse(STATE_DAMAGED, "a blob is missing on the manager's disk", seen=blob) from None
        try:
            data = os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)
        if len(data) != length:
            raise refuse(STATE_DAMAGED, "a blob is cut short on the manager's disk", seen=blob)
        return data

    def _path(self, asset: str, blob: str) -> Path:
        return self._root / asset.removeprefix("sha256:") / blob


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        done = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[done:], offset + done


def _failed(exc: OSError) -> PerunError:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return refuse(DISK_FULL, "the manager's disk is full; the part was not kept")
    raise exc
