"""Sealed assets: manifests, wrapped keys, and the ciphertext of their blobs.

The manager takes an asset only when the wrap for its own intake key opens as that very asset of that owner; it then keeps
the data key under custody. Blobs are ciphertext to it, as to everybody without the key.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from typing import Any

from sqlalchemy import insert

from perunml.api.assets import PART_SIZE, AssetView, PushAsset
from perunml.manager import registered, rights
from perunml.manager.blobs import BlobFolder
from perunml.manager.codes import ASSET_CONFLICT, INTAKE_ROTATED, PART_OUT_OF_ORDER, STORE_FIXED
from perunml.manager.context import Services
from perunml.manager.http import BYTES_TYPE, Access, Answer, Call, number, outside
from perunml.manager.leases import alive
from perunml.manager.routing import Spec
from perunml.manager.store import tables as t
from perunml.manager.store.connection import Connection, Statement
from perunml.manager.writer import Transaction
from perunml.sealing.codes import DISK_FULL, WRAP_MISSING
from perunml.sealing.keys import WrappedKeys, unwrap_key, wipe
from perunml.sealing.manifest import Manifest, open_manifest
from perunml.wire.codes import MALFORMED
from perunml.wire.dsse import Envelope
from perunml.wire.errors import refuse
from perunml.wire.identity import PublicKey

MANIFEST_LIMIT = 8 * 1024 * 1024
"""Bytes of a push: a manifest of 20,000 blobs has 3 MB, a third more in base64."""
SPARE = 64 * 1024 * 1024
"""Bytes that stay free on the disk: the database must be able to write what it acknowledges."""
_ASSET = "SELECT * FROM assets WHERE digest = :digest"
_VERSIONS = "SELECT digest, version, owner FROM assets WHERE asset_id = :asset_id AND run = ''"
_BLOBS = "SELECT blob, received FROM blobs WHERE asset = :asset"
_BLOB = "SELECT size, received FROM blobs WHERE asset = :asset AND blob = :blob"
_ADD = Statement(insert(t.assets))
_ADD_BLOB = Statement(insert(t.blobs))
_REWRAP = "UPDATE assets SET kept = :kept WHERE digest = :digest"
_WHOLE_BLOBS = "SELECT blob, size FROM blobs WHERE asset = :asset AND received = size"
_ADVANCE = "UPDATE blobs SET received = :received WHERE asset = :asset AND blob = :blob"
_WHOLE = (
    "UPDATE assets SET complete = 1 WHERE digest = :asset AND NOT EXISTS "
    "(SELECT 1 FROM blobs WHERE asset = :asset AND received < size)"
)


def routes(services: Services) -> list[Spec]:
    folder = BlobFolder(services.config.blobs)

    async def push(call: Call) -> AssetView:
        services.rollback.check()  # the key would be kept where nobody looks after it
        message = PushAsset.decode(call.body)
        manifest, kept = _open(services, message, call.caller.key)
        digest = message.manifest.digest
        if not message.store:
            check_room(services, manifest)
        return await services.writer.submit(
            lambda transaction: _register(services, transaction, digest, manifest, message, kept)
        )

    async def show(call: Call) -> AssetView:
        with services.database.read() as connection:
            row = connection.run(_ASSET, {"digest": call.params["asset"]}).first()
            if row is None or not (
                row.owner == call.caller.key or rights.names_asset(services, connection, call.caller.key, row.digest)
            ):
                raise outside()
            return view(connection, row)

    async def put(call: Call) -> AssetView:
        asset, blob, offset = call.params["asset"], call.params["blob"], number(call, "offset")
        with services.database.read() as connection:
            _may_write(services, connection, call, asset)
            check_here(connection, asset)
            row = connection.run(_BLOB, {"asset": asset, "blob": blob}).first()
            if row is None:
                raise outside()
        if not call.body or offset + len(call.body) > row.size:
            raise refuse(
                PART_OUT_OF_ORDER, "a part is empty or runs over its blob", expected=f"{row.size} bytes in all",
                seen=f"{offset + len(call.body)} bytes",
            )  # fmt: skip
        with folder.busy(asset, blob):
            await asyncio.to_thread(folder.write, asset, blob, offset, row.received, call.body)
            received = offset + len(call.body)
            return await services.writer.submit(lambda tx: _advance(tx, asset, blob, received))

    async def get(call: Call) -> Answer:
        asset, blob = call.params["asset"], call.params["blob"]
        offset, length = number(call, "offset"), number(call, "length", PART_SIZE)
        with services.database.read() as connection:
            _may_read(services, connection, call, asset)
            check_here(connection, asset)
            row = connection.run(_BLOB, {"asset": asset, "blob": blob}).first()
        if row is None:
            raise outside()
        if not length or offset + length > row.received:
            raise refuse(MALFORMED, "outside the blob", expected=f"{row.received} bytes", seen=f"{offset}+{length}")
        return Answer(await asyncio.to_thread(folder.read, asset, blob, offset, length), BYTES_TYPE)

    path = "/v1/assets/{asset}/blobs/{blob}"
    return [
        Spec("POST", "/v1/assets", Access.PARTY, push, MANIFEST_LIMIT, takes=PushAsset),
        Spec("GET", "/v1/assets/{asset}", Access.PARTY, show),
        Spec("PUT", path, Access.PARTY_OR_LEASE, put, PART_SIZE, query=("offset",)),
        Spec("GET", path, Access.PARTY_OR_LEASE, get, query=("offset", "length")),
    ]


def view(connection: Connection, row: Any) -> AssetView:
    """An asset's row as its owner sees it."""
    blobs = connection.run(_BLOBS, {"asset": row.digest})
    return AssetView(
        asset=row.digest,
        name=row.name,
        kind=row.kind,
        version=row.version,
        owner=row.owner,
        size=row.size,
        complete=bool(row.complete),
        received={row[0]: row[1] for row in blobs},
        store=row.store,
    )


def add(
    connection: Connection, digest: str, manifest: Manifest, envelope: Envelope, kept: bytes, run: str, output: str,
    store: str = "",
) -> None:  # fmt: skip
    """A new asset's rows."""
    _ADD.run(
        connection,
        digest=digest,
        asset_id=manifest.asset_id,
        name=manifest.name,
        kind=manifest.kind,
        version=manifest.version,
        owner=manifest.owner,
        size=manifest.size,
        complete=0,
        manifest=envelope.encode(),
        kept=kept,
        run=run,
        output=output,
        store=store,
    )
    _ADD_BLOB.many(
        connection,
        [{"asset": digest, "blob": b.id, "size": manifest.sealed_size(b), "received": 0} for b in manifest.all_blobs],
    )


def custody(digest: str, owner: str) -> dict[str, str]:
    """What a data key is kept as."""
    return {"label": "perunml/custody", "asset": digest, "owner": owner}


def check_room(services: Services, manifest: Manifest) -> None:
    """Raises `LimitReached` (disk_full) when the ciphertext will not fit."""
    free = shutil.disk_usage(services.config.folder).free
    if manifest.total_sealed + SPARE > free:
        raise refuse(
            DISK_FULL, "the asset does not fit on the manager's disk", expected=f"{manifest.total_sealed} bytes",
            seen=f"{max(0, free - SPARE)} bytes free",
        )  # fmt: skip


def _open(services: Services, message: PushAsset, key: str) -> tuple[Manifest, bytes]:
    """The manifest signed by the caller, and its data key under custody."""
    manifest = open_manifest(message.manifest, [PublicKey(key)])
    digest = message.manifest.digest
    if manifest.kind in ("output", "checkpoint"):
        raise refuse(
            ASSET_CONFLICT,
            "outputs and checkpoints come from runs",
            expected="dataset, code or model",
            seen=manifest.kind,
        )
    wraps = WrappedKeys.from_json(message.keys)
    if wraps.asset != digest:
        raise refuse(WRAP_MISSING, "the wrapped keys are another asset's", expected=digest, seen=wraps.asset)
    current = services.keys.intake.public
    replaced = [wrap.recipient for wrap in wraps.wraps if services.keys.was_intake(wrap.recipient)]
    if replaced and all(wrap.recipient != current.id for wrap in wraps.wraps):
        raise refuse(
            INTAKE_ROTATED, "the manager has another intake key by now", expected=current.id, seen=replaced[-1]
        )
    data_key = unwrap_key(wraps.find(services.keys.intake.public), manifest, services.keys.intake)
    try:
        return manifest, services.keys.keep(data_key, custody(digest, manifest.owner))
    finally:
        wipe(data_key)


def check_here(connection: Connection, asset: str) -> None:
    """Raises `UsageError` (store_fixed): the asset's blobs lie in a bucket."""
    row = connection.run(_ASSET, {"digest": asset}).first()
    if row is not None and row.store:
        raise refuse(STORE_FIXED, "the blobs of this asset go to and come from a bucket", expected=row.store)


def _register(
    services: Services, transaction: Transaction, digest: str, manifest: Manifest, message: PushAsset, kept: bytes
) -> AssetView:
    connection, store = transaction.connection, message.store
    versions = connection.run(_VERSIONS, {"asset_id": manifest.asset_id}).all()
    if store:
        services.stores.check(connection, store)
    if any(row.digest == digest for row in versions):
        lies = str(connection.run(_ASSET, {"digest": digest}).one().store)
        if store and store != lies:
            raise refuse(
                STORE_FIXED, "the asset was brought already", expected=lies or "the manager's folder", seen=store
            )
        connection.run(_REWRAP, {"kept": kept, "digest": digest})
    else:
        newest = max((row.version for row in versions), default=0)
        if any(row.owner != manifest.owner for row in versions) or manifest.version <= newest:
            raise refuse(
                ASSET_CONFLICT, "the asset has this version already, or is another owner's",
                expected=f"version {newest + 1}", seen=f"version {manifest.version}",
            )  # fmt: skip
        add(connection, digest, manifest, message.manifest, kept, "", "", store)
        if not store:
            _share(services, connection, digest, manifest, [str(row.digest) for row in versions])
    row = connection.run(_ASSET, {"digest": digest}).one()
    return view(connection, row)


def _share(services: Services, connection: Connection, asset: str, manifest: Manifest, versions: Sequence[str]) -> None:
    """Blobs that a version before has here already, whole and of this size, are this version's too: they are the same owner's, and named by id in what it signed."""
    sizes = {blob.id: manifest.sealed_size(blob) for blob in manifest.all_blobs}
    folder = BlobFolder(services.config.blobs)
    for earlier in reversed(versions):
        for row in connection.run(_WHOLE_BLOBS, {"asset": earlier}).all():
            if sizes.get(row.blob) == row.size and folder.share(earlier, asset, row.blob):
                del sizes[row.blob]
                connection.run(_ADVANCE, {"asset": asset, "blob": row.blob, "received": row.size})
    connection.run(_WHOLE, {"asset": asset})


def _advance(transaction: Transaction, asset: str, blob: str, received: int) -> AssetView:
    connection = transaction.connection
    held = connection.run(_BLOB, {"asset": asset, "blob": blob}).one()
    if received > held.received:
        connection.run(_ADVANCE, {"asset": asset, "blob": blob, "received": received})
        connection.run(_WHOLE, {"asset": asset})
    return view(connection, connection.run(_ASSET, {"digest": asset}).one())


def _may_write(services: Services, connection: Connection, call: Call, asset: str) -> None:
    """The owner; or the run's lease for its own outputs, before they are registered."""
    row = connection.run(_ASSET, {"digest": asset}).first()
    if row is None:
        raise outside()
    if call.caller.key:
        if row.owner != call.caller.key or row.run:
            raise outside()
        return
    lease = alive(services, connection, call.caller.lease)
    if row.run != lease.run or row.owner != lease.session_key:
        raise outside()


def _may_read(services: Services, connection: Connection, call: Call, asset: str) -> None:
    """The owner, a recipient to whom the output was released, or a lease that was granted the asset."""
    if call.caller.lease:
        if asset not in alive(services, connection, call.caller.lease).granted:
            raise outside()
        return
    row = connection.run(_ASSET, {"digest": asset}).first()
    if row is None:
        raise outside()
    if row.run:
        if not registered.released_to(services, connection, asset, call.caller.key):
            raise outside()
    elif row.owner != call.caller.key:
        raise outside()
