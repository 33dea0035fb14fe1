"""Ciphertext of outputs that were claimed here, out of a lost manager's backup: `perunml manager adopt`.

The operator brings it and nobody trusts the operator: what is copied is checked against the Merkle root of the manifest, which the run's
session signed and the lost manager's receipt names.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from perunml.manager.blobs import BlobFolder
from perunml.manager.codes import BACKUP_DAMAGED, NOTHING_TO_ADOPT
from perunml.manager.config import Config
from perunml.manager.store.database import Database
from perunml.manager.store.envelopes import stored
from perunml.sealing.manifest import Manifest
from perunml.sealing.reader import verify_tree
from perunml.wire.errors import PerunError, refuse

_WAITING = (
    "SELECT DISTINCT a.digest, a.manifest FROM assets a JOIN recoveries r ON r.asset = a.digest WHERE a.complete = 0 "
    "ORDER BY a.digest"
)
_RECEIVED = "UPDATE blobs SET received = size WHERE asset = :asset"
_WHOLE = "UPDATE assets SET complete = 1 WHERE digest = :asset"
_PART = 1024 * 1024
Progress = Callable[[int, int], None]
"""Bytes of the backup read, and in all."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """Outputs (digests) whose ciphertext is here now, those that the backup does not hold whole, and bytes copied."""

    outputs: tuple[str, ...]
    missing: tuple[str, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class _Source:
    """An asset's blobs in the manager's folder, for the check."""

    folder: BlobFolder
    asset: str

    def read(self, blob_id: str, offset: int, buffer: memoryview) -> None:
        buffer[:] = self.folder.read(self.asset, blob_id, offset, len(buffer))


def adopt(folder: Path, source: Path, progress: Progress = lambda *_: None) -> Adopted:
    """Copy from the backup `source` what claimed outputs lack; the manager of `folder` may run meanwhile. Raises `UsageError`
    (nothing_to_adopt: no output waits for ciphertext), `IntegrityError` (backup_damaged: it is no backup, or its bytes are not those
    that the output's manifest says), `LimitReached` (disk_full)."""
    config = Config.load(folder)
    database = Database.open(config.database)
    try:
        with database.read() as connection:
            waiting = {row[0]: _manifest(row[1]) for row in connection.run(_WAITING).all()}
        if not waiting:
            raise refuse(
                NOTHING_TO_ADOPT, "no claimed output waits for its ciphertext", command="perunml recovery give"
            )
        blobs = BlobFolder(config.blobs)
        found, copied = _copy(source, waiting, blobs, progress)
        whole = []
        for asset, manifest in waiting.items():
            if found.get(asset) != {blob.id for blob in manifest.all_blobs}:
                continue
            try:
                verify_tree(manifest, _Source(blobs, asset))
            except PerunError as exc:
                raise refuse(
                    BACKUP_DAMAGED,
                    f"the ciphertext of {asset} in it is not what was sealed",
                    expected=asset,
                    seen=exc.code,
                ) from None
            with database.write() as connection:
                connection.run(_RECEIVED, {"asset": asset})
                connection.run(_WHOLE, {"asset": asset})
            whole.append(asset)
    finally:
        database.close()
    return Adopted(tuple(whole), tuple(sorted(set(waiting) - set(whole))), copied)


def _manifest(data: Any) -> Manifest:
    return Manifest.from_json(stored(data).unverified("Manifest"))


def _copy(
    source: Path, waiting: dict[str, Manifest], blobs: BlobFolder, progress: Progress
) -> tuple[dict[str, set[str]], int]:
    """By asset which blobs came, and how many bytes."""
    wanted = {
        f"blobs/{asset.removeprefix('sha256:')}/{blob.id}": (asset, blob.id, manifest.sealed_size(blob))
        for asset, manifest in waiting.items()
        for blob in manifest.all_blobs
    }
    found: dict[str, set[str]] = {}
    copied, total = 0, source.stat().st_size
    try:
        with tarfile.open(source, "r:") as archive:
            for member in archive:
                progress(member.offset_data + member.size, total)
                if member.name not in wanted:
                    continue
                asset, blob, size = wanted[member.name]
                data = archive.extractfile(member) if member.isreg() else None
                if data is None or member.size != size:
                    raise refuse(
                        BACKUP_DAMAGED, "a blob in it has another size", expected=str(size), seen=f"{member.size} bytes"
                    )
                _write(blobs, asset, blob, data)
                found.setdefault(asset, set()).add(blob)
                copied += size
    except tarfile.TarError as exc:
        raise refuse(BACKUP_DAMAGED, "it is no backup, or was cut short", seen=type(exc).__name__) from None
    return found, copied


def _write(blobs: BlobFolder, asset: str, blob: str, data: IO[bytes]) -> None:
    offset = 0
    while part := data.read(_PART):
        blobs.write(asset, blob, offset, offset, part)
        offset += len(part)
