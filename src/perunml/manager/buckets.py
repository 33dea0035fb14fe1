"""Assets whose blobs lie in a bucket: addresses to write them for their owner, addresses to read them for a lease.

POST /v1/assets/{asset}/uploads  party  UploadRequest -> BlobAddresses   of those that are not there; what is, is counted
POST /v1/assets/{asset}/reads    lease  ReadRequest   -> BlobAddresses   good for no longer than the lease

The owner sends blobs straight to the bucket, the host reads them there; the manager looks whether each is there in its size. Whether it
is what was sealed says the Merkle tree, at the host. An address is as good as a key: it stands in these answers and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from perunml.api.assets import BlobAddresses, ReadRequest, UploadRequest
from perunml.manager.auth import lease_over
from perunml.manager.codes import STORE_FIXED
from perunml.manager.context import Services
from perunml.manager.http import SMALL, Access, Call, outside
from perunml.manager.leases import alive, left
from perunml.manager.routing import Spec
from perunml.manager.store.connection import Connection
from perunml.manager.writer import Transaction
from perunml.sealing.codes import BLOB_MISSING
from perunml.sealing.store_s3 import S3Store
from perunml.wire.errors import PerunError, refuse

UPLOAD_TIME = 900
"""Seconds for which an owner may begin to write: 64 blobs of 64 MiB at 5 MB/s."""
LOOKS = 8
"""Questions to the bucket at once, for one request."""
_ASSET = "SELECT * FROM assets WHERE digest = :digest"
_BLOBS = "SELECT blob, size FROM blobs WHERE asset = :asset"
_RECEIVED = "UPDATE blobs SET received = :received WHERE asset = :asset AND blob = :blob"
_WHOLE = (
    "UPDATE assets SET complete = NOT EXISTS (SELECT 1 FROM blobs WHERE asset = :asset AND received < size) "
    "WHERE digest = :asset"
)


def routes(services: Services) -> list[Spec]:
    async def uploads(call: Call) -> BlobAddresses:
        message, asset = UploadRequest.decode(call.body), call.params["asset"]
        with services.database.read() as connection:
            row = connection.run(_ASSET, {"digest": asset}).first()
            if row is None or row.owner != call.caller.key or row.run:
                raise outside()
            store, sizes = _opened(services, connection, asset, row.store, message.blobs)
        there = await asyncio.to_thread(_look, store, sizes, message.replace)
        await services.writer.submit(lambda transaction: _count(transaction, asset, sizes, there))
        absent = [blob for blob in sizes if not there[blob]]
        return BlobAddresses(urls=store.sign("PUT", absent, UPLOAD_TIME) if absent else {}, expires_in=UPLOAD_TIME)

    async def reads(call: Call) -> BlobAddresses:
        message, asset = ReadRequest.decode(call.body), call.params["asset"]
        with services.database.read() as connection:
            lease = alive(services, connection, call.caller.lease)
            row = connection.run(_ASSET, {"digest": asset}).first()
            if row is None or asset not in lease.granted:
                raise outside()
            store, sizes = _opened(services, connection, asset, row.store, message.blobs)
            seconds = int(left(services, lease))
        if seconds < 1:
            raise lease_over()
        return BlobAddresses(urls=store.sign("GET", list(sizes), seconds), expires_in=seconds)

    return [
        Spec("POST", "/v1/assets/{asset}/uploads", Access.PARTY, uploads, SMALL, takes=UploadRequest),
        Spec("POST", "/v1/assets/{asset}/reads", Access.LEASE, reads, SMALL, takes=ReadRequest),
    ]


def _opened(
    services: Services, connection: Connection, asset: str, name: str, wanted: list[str]
) -> tuple[S3Store, dict[str, int]]:
    """The asset's store, and the sizes of the blobs asked for."""
    if not name:
        raise refuse(STORE_FIXED, "the blobs of this asset lie in the manager's folder", seen="no store")
    sizes = {row[0]: int(row[1]) for row in connection.run(_BLOBS, {"asset": asset})}
    if not set(wanted) <= set(sizes):
        raise outside()
    return services.stores.open(connection, name, asset), {blob: sizes[blob] for blob in wanted}


def _look(store: S3Store, sizes: Mapping[str, int], replace: bool) -> dict[str, bool]:
    """Whether each blob is there in its size. One in another size, or that is to be replaced, is removed: an owner writes nothing over."""

    def one(blob: str) -> bool:
        try:
            if not replace and store.size(blob) == sizes[blob]:
                return True
        except PerunError as exc:
            if exc.code == BLOB_MISSING.code:
                return False
            raise
        store.discard(blob)
        return False

    with ThreadPoolExecutor(LOOKS) as pool:
        return dict(zip(sizes, pool.map(one, sizes), strict=True))


def _count(transaction: Transaction, asset: str, sizes: Mapping[str, int], there: Mapping[str, bool]) -> None:
    connection = transaction.connection
    for blob, size in sizes.items():
        connection.run(_RECEIVED, {"asset": asset, "blob": blob, "received": size if there[blob] else 0})
    connection.run(_WHOLE, {"asset": asset})
