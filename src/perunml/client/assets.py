"""Sealing into the home folder, pushing from there, and suspending.

Sealing is local: the data key is wrapped to this party's own receiving key. Pushing adds a wrap for the manager's intake
key, which the pin names, and sends manifest, wraps and ciphertext; it goes on where an interrupted push stopped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perunml.api.assets import PART_SIZE, AssetView, DocumentView, PushAsset, PushDocument
from perunml.api.base import Signed
from perunml.client import buckets, sealing_work
from perunml.client.codes import BLOB_TOO_LARGE, NOT_FOUND
from perunml.client.connection import Connection
from perunml.client.home import Home, checked_name
from perunml.client.identity import Identity
from perunml.sealing.borders import Records, find_table
from perunml.sealing.keys import WrappedKeys, wipe, wrap_key
from perunml.sealing.manifest import DEFAULT_CHUNK, Manifest, open_manifest
from perunml.sealing.store import FolderStore
from perunml.sealing.writer import collect, seal_files
from perunml.wire.dsse import Envelope, signed
from perunml.wire.errors import refuse
from perunml.wire.hpke import HpkePublicKey

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


@dataclass(frozen=True, slots=True)
class SealedAsset:
    """A sealed asset in the home folder; `asset` is the digest that agreements name. `reused` are the bytes that were not sealed anew, `aligned`
    those of files whose chunks follow their records' borders."""

    asset: str
    manifest: Manifest
    folder: Path
    reused: int = 0
    aligned: int = 0


def load_sealed(home: Home, identity: Identity, name: str, version: int | None = None) -> tuple[SealedAsset, Envelope]:
    """A sealed asset of this party, its manifest's signature checked."""
    folder = home.asset(name, version)
    envelope = FolderStore(folder).manifest()
    manifest = open_manifest(envelope, identity.own_keys)
    return SealedAsset(envelope.digest, manifest, folder), envelope


def local_assets(home: Home) -> list[tuple[str, int, str]]:
    """(name, version, digest) of everything sealed in a home folder; signatures are checked when it is pushed."""
    names = sorted(path.name for path in home.assets.glob("[!.]*") if path.is_dir())
    return [
        (name, version, FolderStore(folder).manifest().digest)
        for name in names
        for version, folder in home.asset_versions(name).items()
    ]


def seal(
    home: Home,
    identity: Identity,
    source: Path,
    *,
    name: str,
    kind: str,
    chunk_size: int = DEFAULT_CHUNK,
    fresh_key: bool = False,
    records: Records | None = None,
    progress: Progress | None = None,
) -> SealedAsset:
    """Seal a folder or a file as the next version of `name`. An error leaves nothing that counts; what a kill leaves, the next call goes on with. Files that did not change since the
    version before keep their blobs, under its data key, unless a `fresh_key` is asked for: who was given the one version's key can then open nothing of the other's. Chunks follow the
    borders of records in large ``.npy``, ``.tar`` and ``.parquet`` files, and in others where `records` says how long one is."""
    if not source.exists():
        raise refuse(NOT_FOUND, "there is nothing to seal", expected="a folder or a file", seen=str(source))
    versions = home.asset_versions(checked_name(name))
    version = max(versions, default=0) + 1
    earlier = load_sealed(home, identity, name)[0] if versions else None
    # An asset's versions have one owner's key; after that was replaced, the next version is another asset of the same name.
    own = earlier is not None and earlier.manifest.owner == identity.signing.public.text
    before = None
    if earlier and own and not fresh_key and (earlier.manifest.kind, earlier.manifest.chunk_size) == (kind, chunk_size):
        before = sealing_work.version_before(earlier.folder, identity, earlier.manifest)
    asset_id = earlier.manifest.asset_id if earlier and own and before is None else None
    parent = home.assets / name
    try:
        with sealing_work.sealing(
            home, identity, name, version=version, kind=kind, chunk_size=chunk_size, before=before, asset_id=asset_id
        ) as work:
            files = collect(source)
            tables = {path: table for path, place in files.items() if (table := find_table(place, chunk_size, records))}
            envelope = seal_files(
                files,
                work.store,
                name=name,
                kind=kind,
                owner=identity.signing,
                data_key=work.data_key,
                version=version,
                asset_id=work.asset_id,
                chunk_size=chunk_size,
                progress=progress,
                journal=work.journal,
                tables=tables,
            )
            manifest = open_manifest(envelope, [identity.signing.public])
            keep = {blob.id for blob in manifest.all_blobs}
            for blob in work.kept - keep:  # of files that went, or changed
                work.store.discard(blob)
            wrap = wrap_key(work.data_key, manifest, identity.receiving.public)
            work.store.save(envelope, WrappedKeys(envelope.digest, (wrap,)))
            folder = parent / f"v{version}"
            work.finish(folder)
    finally:
        with contextlib.suppress(OSError):
            parent.rmdir()  # only where nothing of this name was ever sealed
    reused = sum(blob.size for blob in manifest.blobs if blob.id in work.kept)
    return SealedAsset(
        envelope.digest, manifest, folder, reused, sum(blob.size for blob in manifest.blobs if blob.chunks)
    )


def push(
    connection: Connection,
    home: Home,
    identity: Identity,
    name: str,
    *,
    version: int | None = None,
    store: str = "",
    replace: bool = False,
    progress: Progress | None = None,
) -> AssetView:
    """Send a sealed asset to the pinned manager, which alone gets a wrap of its key; its blobs into the manager's folder, or into the bucket that the
    manager names `store`. With `replace` what lies in the bucket is written anew."""
    sealed, envelope = load_sealed(home, identity, name, version)
    manifest = sealed.manifest
    if manifest.owner != identity.signing.public.text:  # sealed under a former key, which alone may bring it
        with connection.signed_by(identity.signer(manifest.owner)) as former:
            return _push(former, sealed, envelope, identity, store, replace, progress)
    return _push(connection, sealed, envelope, identity, store, replace, progress)


def _push(
    connection: Connection, sealed: SealedAsset, envelope: Envelope, identity: Identity, named: str, replace: bool, progress: Progress | None,
) -> AssetView:  # fmt: skip
    manifest = sealed.manifest
    if named and (largest := max(manifest.sealed_size(blob) for blob in manifest.all_blobs)) > buckets.MOST:
        raise refuse(BLOB_TOO_LARGE, "a file's ciphertext does not go into one object of a bucket", expected=f"at most {buckets.MOST} bytes", seen=str(largest))  # fmt: skip
    with FolderStore(sealed.folder) as store:
        keys = _wrapped_for(HpkePublicKey(connection.pin.intake), sealed, store.keys(), identity)
        message = PushAsset(manifest=envelope, keys=keys.as_json(), store=named)
        view = connection.call("POST", "/v1/assets", AssetView, message)
        store.save_keys(keys)
        if view.store or replace:
            buckets.upload(connection, sealed.asset, manifest, store, replace, progress)
            return show(connection, sealed.asset)
        done = 0
        for blob in manifest.all_blobs:
            size, offset = manifest.sealed_size(blob), view.received.get(blob.id, 0)
            done += offset
            while offset < size:
                part = bytearray(min(PART_SIZE, size - offset))
                store.read(blob.id, offset, memoryview(part))
                connection.raw("PUT", f"/v1/assets/{sealed.asset}/blobs/{blob.id}?offset={offset}", bytes(part))
                offset, done = offset + len(part), done + len(part)
                if progress is not None:
                    progress(done, manifest.total_sealed)
    return show(connection, sealed.asset)


def recover(
    connection: Connection, home: Home, identity: Identity, names: tuple[str, ...], *, progress: Progress | None = None
) -> list[AssetView]:
    """Push every version of these sealed assets (or of all), oldest first. Raises `UsageError` (not_found), what `push` raises."""
    for name in names:
        home.asset(name)
    wanted = [(name, version) for name, version, _ in local_assets(home) if not names or name in names]
    return [push(connection, home, identity, name, version=version, progress=progress) for name, version in wanted]


def show(connection: Connection, asset: str) -> AssetView:
    """An asset as the manager holds it."""
    return connection.call("GET", f"/v1/assets/{asset}", AssetView)


def push_document(connection: Connection, identity: Identity, kind: str, body: dict[str, object]) -> DocumentView:
    """Sign a document (a Baseline) and send it."""
    document: Signed = signed(kind, body, identity.signing)
    return connection.call("POST", "/v1/documents", DocumentView, PushDocument(document=document))


def _wrapped_for(recipient: HpkePublicKey, sealed: SealedAsset, keys: WrappedKeys, identity: Identity) -> WrappedKeys:
    """The asset's wraps, with a fresh one for `recipient`."""
    data_key = identity.data_key(keys, sealed.manifest)
    try:
        return keys.with_wrap(wrap_key(data_key, sealed.manifest, recipient))
    finally:
        wipe(data_key)
