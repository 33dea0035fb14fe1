"""Sealing into the home folder, pushing from there, and suspending.

Sealing is local: the data key is wrapped to this party's own receiving key. Pushing adds a wrap for the manager's intake
key, which the pin names, and sends manifest, wraps and ciphertext; it goes on where an interrupted push stopped.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perunml.api.assets import PART_SIZE, AssetView, DocumentView, PushAsset, PushDocument
from perunml.api.base import Signed
from perunml.client.codes import NOT_FOUND
from perunml.client.connection import Connection
from perunml.client.home import Home, checked_name, write_file
from perunml.client.identity import Identity
from perunml.sealing.keys import WrappedKeys, new_data_key, unwrap_key, wrap_key
from perunml.sealing.manifest import DEFAULT_CHUNK, BlobEntry, Manifest, open_manifest
from perunml.sealing.store import FolderStore
from perunml.sealing.writer import seal_files, seal_folder
from perunml.wire.canonical import canonical, load_json
from perunml.wire.dsse import Envelope, signed
from perunml.wire.errors import refuse
from perunml.wire.hpke import HpkePublicKey

TAG_SIZE = 16
"""Bytes that AES-GCM adds to each chunk."""
Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


@dataclass(frozen=True, slots=True)
class SealedAsset:
    """A sealed asset in the home folder; `asset` is the digest that agreements name."""

    asset: str
    manifest: Manifest
    folder: Path


def load_sealed(home: Home, identity: Identity, name: str, version: int | None = None) -> tuple[SealedAsset, Envelope]:
    """A sealed asset of this party, its manifest's signature checked."""
    folder = home.asset(name, version)
    envelope = Envelope.decode((folder / "manifest.json").read_bytes())
    manifest = open_manifest(envelope, [identity.signing.public])
    return SealedAsset(envelope.digest, manifest, folder), envelope


def seal(
    home: Home,
    identity: Identity,
    source: Path,
    *,
    name: str,
    kind: str,
    chunk_size: int = DEFAULT_CHUNK,
    progress: Progress | None = None,
) -> SealedAsset:
    """Seal a folder or a file as the next version of `name`. A crash or an error leaves nothing behind."""
    if not source.exists():
        raise refuse(NOT_FOUND, "there is nothing to seal", expected="a folder or a file", seen=str(source))
    versions = home.asset_versions(checked_name(name))
    version, asset_id = max(versions, default=0) + 1, None
    if versions:
        asset_id = load_sealed(home, identity, name)[0].manifest.asset_id
    parent = home.assets / name
    parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=parent, prefix=".new-"))
    data_key = new_data_key()
    try:
        store = FolderStore(temporary)
        common = {"name": name, "kind": kind, "owner": identity.signing, "data_key": data_key, "version": version}
        seal_any = seal_folder if source.is_dir() else _seal_file
        envelope = seal_any(source, store, asset_id=asset_id, chunk_size=chunk_size, progress=progress, **common)
        manifest = open_manifest(envelope, [identity.signing.public])
        keys = WrappedKeys(envelope.digest, (wrap_key(data_key, manifest, identity.receiving.public),))
        _write_documents(temporary, envelope, keys)
        folder = parent / f"v{version}"
        os.rename(temporary, folder)
    finally:
        data_key[:] = bytes(len(data_key))
        shutil.rmtree(temporary, ignore_errors=True)
    return SealedAsset(envelope.digest, manifest, folder)


def push(
    connection: Connection,
    home: Home,
    identity: Identity,
    name: str,
    *,
    version: int | None = None,
    progress: Progress | None = None,
) -> AssetView:
    """Send a sealed asset to the pinned manager, which alone gets a wrap of its key."""
    sealed, envelope = load_sealed(home, identity, name, version)
    keys = _wrapped_for(HpkePublicKey(connection.pin.intake), sealed, identity)
    message = PushAsset(manifest=envelope, keys=keys.as_json())
    view = connection.call("POST", "/v1/assets", AssetView, message)
    _write_documents(sealed.folder, envelope, keys)
    store = FolderStore(sealed.folder)
    blobs = (*sealed.manifest.blobs, sealed.manifest.index)
    total, done = sum(map(ciphertext_size, blobs)), 0
    for blob in blobs:
        size, offset = ciphertext_size(blob), view.received.get(blob.id, 0)
        done += offset
        while offset < size:
            part = bytearray(min(PART_SIZE, size - offset))
            store.read(blob.id, offset, memoryview(part))
            where = f"/v1/assets/{sealed.asset}/blobs/{blob.id}?offset={offset}"
            connection.raw("PUT", where, bytes(part))
            offset, done = offset + len(part), done + len(part)
            if progress is not None:
                progress(done, total)
    return show(connection, sealed.asset)


def show(connection: Connection, asset: str) -> AssetView:
    """An asset as the manager holds it."""
    return connection.call("GET", f"/v1/assets/{asset}", AssetView)


def push_document(connection: Connection, identity: Identity, kind: str, body: dict[str, object]) -> DocumentView:
    """Sign a document (a Baseline) and send it."""
    document: Signed = signed(kind, body, identity.signing)
    return connection.call("POST", "/v1/documents", DocumentView, PushDocument(document=document))


def ciphertext_size(blob: BlobEntry) -> int:
    """Bytes of a blob as it is stored: every chunk carries a tag."""
    return blob.size + TAG_SIZE * blob.chunks


def _wrapped_for(recipient: HpkePublicKey, sealed: SealedAsset, identity: Identity) -> WrappedKeys:
    """The asset's wraps, with a fresh one for `recipient`."""
    keys = WrappedKeys.from_json(load_json((sealed.folder / "keys.json").read_bytes()))
    own = identity.receiving.public.id
    found = [wrap for wrap in keys.wraps if wrap.recipient == own]
    if not found or keys.asset != sealed.asset:
        raise refuse(NOT_FOUND, "this party's own wrap of the data key is missing", expected=own, seen=sealed.asset)
    data_key = unwrap_key(found[0], sealed.manifest, identity.receiving)
    try:
        fresh = wrap_key(data_key, sealed.manifest, recipient)
    finally:
        data_key[:] = bytes(len(data_key))
    kept = tuple(wrap for wrap in keys.wraps if wrap.recipient != recipient.id)
    return WrappedKeys(keys.asset, (*kept, fresh))


def _write_documents(folder: Path, envelope: Envelope, keys: WrappedKeys) -> None:
    write_file(folder / "manifest.json", envelope.encode())
    write_file(folder / "keys.json", canonical(keys.as_json()))


def _seal_file(source: Path, store: FolderStore, **options: object) -> Envelope:
    return seal_files({source.name: source}, store, **options)  # type: ignore[arg-type]
