"""Where an asset is sealed until it is whole: ``assets/<name>/.sealing``, which an interrupted sealing leaves and the next one goes on with.

    sealing.json   version, kind, and the data key sealed to this party alone; signed, or whoever can write here could have the next data sealed
                   under a key of his own
    journal        which blobs are whole (`sealing.journal`)

Both stay with the asset, for its next version. A sealing that is refused leaves nothing; one that is killed, or that its owner interrupts, leaves the blobs that are whole.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perunml.client.codes import SEALING_BUSY
from perunml.client.home import Home, write_file
from perunml.client.identity import Identity
from perunml.sealing.journal import Journal
from perunml.sealing.keys import new_data_key, wipe
from perunml.sealing.manifest import Manifest
from perunml.sealing.store import FolderStore
from perunml.wire.dsse import Envelope, signed
from perunml.wire.encoding import b64, unb64
from perunml.wire.errors import PerunError, refuse

HEADER, JOURNAL = "sealing.json", "journal"
KIND = "Sealing"
_MEMBERS = ("version", "asset_kind", "chunk_size", "shares", "asset_id")


@dataclass(slots=True)
class Work:
    """A sealing under way. `kept` are ids of blobs that were whole when it began: the version before's, and those of a sealing that was interrupted."""

    folder: Path
    store: FolderStore
    data_key: bytearray
    asset_id: str
    journal: Journal
    kept: frozenset[str]

    def finish(self, place: Path) -> None:
        """The asset is whole: it goes where assets lie."""
        self.store.close()
        os.rename(self.folder, place)


@dataclass(frozen=True, slots=True, repr=False)
class Before:
    """The version whose unchanged blobs are shared."""

    folder: Path
    manifest: Manifest
    data_key: bytearray


def version_before(folder: Path, identity: Identity, manifest: Manifest) -> Before | None:
    """A version that was sealed by this very key, if its own record says so. None where there is no such record: nothing is sealed under a key of which it is not proven
    that this party made it."""
    wanted = {"version": manifest.version, "asset_kind": manifest.kind, "chunk_size": manifest.chunk_size}
    try:
        asset_id, data_key = _header(folder, identity, wanted)
    except (OSError, PerunError, KeyError, TypeError, ValueError, AttributeError):
        return None
    return Before(folder, manifest, data_key) if asset_id == manifest.asset_id else None


@contextmanager
def sealing(
    home: Home,
    identity: Identity,
    name: str,
    *,
    version: int,
    kind: str,
    chunk_size: int,
    before: Before | None,
    asset_id: str | None = None,
) -> Iterator[Work]:
    """Go on with an interrupted sealing of the same version, or begin one; `before` is the version whose unchanged blobs are shared, whose data key and asset id
    this one then has; `asset_id` that of an asset whose next version shares nothing. Raises `UsageError` (sealing_busy): another process seals under this name."""
    parent = home.assets / name
    parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise refuse(
                SEALING_BUSY, f"another process seals {name} now", expected="one at a time", seen=str(parent)
            ) from None
        folder = parent / ".sealing"
        # One that shared a key is not gone on with where a fresh one is wanted.
        wanted = {"version": version, "asset_kind": kind, "chunk_size": chunk_size, "shares": before is not None}
        asset_id = before.manifest.asset_id if before else asset_id
        work = _again(folder, identity, wanted, asset_id) or _begin(folder, identity, wanted, before, asset_id)
        try:
            yield work
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            work.store.close()
            wipe(work.data_key)
            if before is not None:
                wipe(before.data_key)
    finally:
        os.close(lock)


def _info(identity: Identity, header: dict[str, Any]) -> dict[str, Any]:
    return {"label": "perunml/sealing", "owner": identity.signing.public.text, **{k: header[k] for k in _MEMBERS}}


def _begin(
    folder: Path,
    identity: Identity,
    wanted: dict[str, Any],
    before: Before | None,
    asset_id: str | None,
) -> Work:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    data_key = new_data_key() if before is None else bytearray(before.data_key)
    asset_id = asset_id or os.urandom(16).hex()
    header = {**wanted, "asset_id": asset_id}
    sealed = identity.receiving.public.seal(data_key, _info(identity, header))
    write_file(folder / HEADER, signed(KIND, {**header, "key": b64(sealed)}, identity.signing).encode(), mode=0o600)
    if before is not None:
        _share(before, folder)
    return _work(folder, data_key, asset_id, wanted["chunk_size"])


def _again(folder: Path, identity: Identity, wanted: dict[str, Any], asset_id: str | None) -> Work | None:
    """What an interrupted sealing left, if it is of the very same; None where anything about it is otherwise."""
    try:
        found, data_key = _header(folder, identity, wanted)
        if asset_id is not None and found != asset_id:
            return None
        return _work(folder, data_key, found, wanted["chunk_size"])
    except (OSError, PerunError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _header(folder: Path, identity: Identity, wanted: dict[str, Any]) -> tuple[str, bytearray]:
    """Asset id and data key of a sealing of this very version, kind and chunk size, by this party. Raises what a file of anything else raises."""
    header = Envelope.decode((folder / HEADER).read_bytes()).open(KIND, [identity.signing.public])
    if {name: header[name] for name in wanted} != wanted or set(header) != {"apiVersion", "kind", *_MEMBERS, "key"}:
        raise ValueError
    return str(header["asset_id"]), bytearray(identity.unseal(unb64(header["key"]), _info(identity, header)))


def _work(folder: Path, data_key: bytearray, asset_id: str, chunk_size: int) -> Work:
    """Blobs that the journal does not know were not whole, or are of nothing; those that are not there are not known."""
    store = FolderStore(folder)
    journal = Journal(folder / JOURNAL, data_key, asset_id, chunk_size)
    blobs = folder / "blobs"
    there = {path.name: path.stat().st_size for path in blobs.iterdir()} if blobs.is_dir() else {}
    journal.only(there)
    for name in set(there) - journal.blobs:
        (blobs / name).unlink()
    return Work(folder, store, data_key, asset_id, journal, journal.blobs)


def _share(before: Before, folder: Path) -> None:
    """The journal and the blobs of the version before, under a second name each: they are written once, and never changed."""
    place, manifest = before.folder, before.manifest
    journal = place / JOURNAL
    if not journal.is_file():
        return
    (folder / "blobs").mkdir()
    for blob in manifest.blobs:
        try:
            os.link(place / "blobs" / blob.id, folder / "blobs" / blob.id)
        except OSError:
            continue  # not there, or not on one file system: it is sealed anew
    shutil.copyfile(journal, folder / JOURNAL)
