"""Pushing blobs straight into a bucket, by addresses that the manager gives for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from perunml.api.assets import MAX_ASKED, BlobAddresses, UploadRequest
from perunml.client.connection import Connection
from perunml.sealing.addressed import Addressed
from perunml.sealing.codes import BLOB_MISSING
from perunml.sealing.manifest import Manifest
from perunml.sealing.store import FolderStore
from perunml.wire.errors import refuse

PART = 1024 * 1024
ROUNDS = 3
"""Times that the manager is asked for the same blobs before one that it does not see counts as missing."""
MOST = 5 * 2**30
"""Bytes of one PUT at S3; a larger blob goes to the manager's folder."""
Progress = Callable[[int, int], None]


def upload(
    connection: Connection, asset: str, manifest: Manifest, store: FolderStore, replace: bool, progress: Progress | None
) -> None:
    """Bring every blob of `manifest` into the bucket that the manager has for it; what is there in its size is passed over, unless it is to be
    replaced. Raises `IntegrityError` (blob_missing), `Unreachable` (store_unreachable, store_refused), and what the manager refuses."""
    sizes = {blob.id: manifest.sealed_size(blob) for blob in manifest.all_blobs}
    done, names = 0, list(sizes)

    def sent(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(min(done, manifest.total_sealed), manifest.total_sealed)

    with Addressed() as bucket:
        for start in range(0, len(names), MAX_ASKED):
            asked = names[start : start + MAX_ASKED]
            before = done
            _batch(connection, asset, asked, sizes, store, bucket, replace, sent)
            sent(before + sum(sizes[blob] for blob in asked) - done)


def _batch(
    connection: Connection, asset: str, asked: Sequence[str], sizes: Mapping[str, int], store: FolderStore,
    bucket: Addressed, replace: bool, sent: Callable[[int], None],
) -> None:  # fmt: skip
    missing = list(asked)
    for number in range(ROUNDS):
        found = _addresses(connection, asset, missing, replace and number == 0)
        missing = [blob for blob in missing if blob in found]
        if not missing:
            return
        for blob in missing:
            address = _Fresh(connection, asset, blob, found[blob])
            bucket.write(blob, address, sizes[blob], partial(_parts, store, blob, sizes[blob], sent))
    raise refuse(
        BLOB_MISSING, "the manager does not see in the bucket what was sent", expected=f"{len(asked)} blobs", seen=f"{len(missing)} missing",
        command="perunml push",
    )  # fmt: skip


def _addresses(connection: Connection, asset: str, blobs: Sequence[str], replace: bool) -> Mapping[str, str]:
    message = UploadRequest(blobs=list(blobs), replace=replace)
    return connection.call("POST", f"/v1/assets/{asset}/uploads", BlobAddresses, message).urls


class _Fresh:
    """The address that is at hand the first time; then, for that was not taken or failed, another one."""

    def __init__(self, connection: Connection, asset: str, blob: str, address: str) -> None:
        self._connection, self._asset, self._blob = connection, asset, blob
        self._first, self._last = address, address

    def __call__(self) -> str:
        if self._first:
            self._first = ""
        else:  # where the manager sees the blob by now it gives none; then the bucket says that there is one
            found = _addresses(self._connection, self._asset, [self._blob], False)
            self._last = found.get(self._blob, self._last)
        return self._last


def _parts(store: FolderStore, blob: str, size: int, sent: Callable[[int], None]) -> Iterator[bytes]:
    for offset in range(0, size, PART):
        part = bytearray(min(PART, size - offset))
        store.read(blob, offset, memoryview(part))
        yield bytes(part)
        sent(len(part))
